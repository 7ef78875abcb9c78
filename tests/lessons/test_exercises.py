"""Every exercise: the right answer is right, each known wrong answer gets its own diagnosis, and nothing crashes."""

import copy
import dataclasses
import inspect
import re
import sys
from collections import Counter

import pytest
import torch

import minitransformer as mt
from minitransformer.lessons import check, judge
from minitransformer.lessons.book import LESSONS, exercises

ALL = [exercise for lesson in LESSONS for exercise in exercises(lesson)]
WRONG = [(exercise, wrong) for exercise in ALL for wrong in exercise.wrong]


def given(exercise, answer):
    """The answer as a reader would give it: a function, or a value."""
    return answer() if exercise.cases is None else answer


def test_there_are_enough_of_them_in_order():
    assert len(ALL) >= 24
    assert len(WRONG) >= 60
    for lesson in LESSONS:
        numbers = [exercise.number for exercise in exercises(lesson)]
        assert numbers == [f"{lesson.number}.{place + 1}" for place in range(len(numbers))]
        assert len(numbers) >= 3


@pytest.mark.parametrize("exercise", ALL, ids=lambda exercise: exercise.number)
def test_the_right_answer_is_right(exercise):
    verdict = judge(exercise.number, given(exercise, exercise.right))
    assert verdict.state == "right", verdict


@pytest.mark.parametrize(("exercise", "wrong"), WRONG, ids=[f"{e.number}-{w.diagnosis:.50}" for e, w in WRONG])
def test_a_wrong_answer_gets_its_own_diagnosis(exercise, wrong):
    verdict = judge(exercise.number, given(exercise, wrong.answer))
    assert (verdict.state, verdict.message) == ("wrong", wrong.diagnosis)


@pytest.mark.parametrize("exercise", ALL, ids=lambda exercise: exercise.number)
def test_the_cases_are_the_same_at_each_call_and_leave_the_global_generator_alone(exercise):
    before = torch.random.get_rng_state()
    for _ in range(2):
        judge(exercise.number, given(exercise, exercise.right))
    assert torch.equal(torch.random.get_rng_state(), before)
    if exercise.cases is not None:
        once, again = exercise.cases(), exercise.cases()
        assert once.keys() == again.keys()
        for about, arguments in once.items():
            for x, y in zip(arguments, again[about], strict=True):
                assert torch.equal(x, y) if isinstance(x, torch.Tensor) else True


@pytest.mark.parametrize("exercise", ALL, ids=lambda exercise: exercise.number)
def test_it_says_what_it_asks_hints_at_more_and_more_and_names_a_place_that_exists(exercise):
    assert len(set(exercise.hints)) == 3
    assert Counter(wrong.diagnosis for wrong in exercise.wrong).most_common(1)[0][1] == 1
    assert len(exercise.wrong) >= 2
    file = re.match(r"[\w/]+\.py", exercise.stands)
    assert file, exercise.stands
    source = inspect.getsourcefile(mt).replace("__init__.py", file[0])
    with open(source, encoding="utf-8") as text:
        named = re.match(r"[\w/]+\.py, ([\w.]+)", exercise.stands)
        assert named, exercise.stands
        assert re.search(rf"\b(def|class) {named[1].rpartition('.')[2]}\b", text.read()), exercise.stands


def stops(*_):
    raise RuntimeError("the wrong shape")


class Odd(list):
    """An object that does not like to be looked at."""

    def __len__(self):
        raise OSError

    def __iter__(self):
        raise OSError


class OddError(Exception):
    def __str__(self):
        raise OSError


def odd_error(*_):
    raise OddError


def inside_torch(*_):
    return torch.zeros(2, dtype=torch.int64).softmax(-1)  # torch raises NotImplementedError, too


def unwritten(*_):
    raise NotImplementedError("to do")


JUNK = [object(), "x", 3, float("nan"), [], {}, [[]], torch.zeros(2, 3, 4), torch.zeros(0), 1j, b"", True, mt, int]
JUNK += [torch.ones(3).to_sparse(), torch.ones(3, device="meta"), Odd(), odd_error, lambda *_: sys.exit()]
JUNK += [
    lambda *_: torch.ones(2, 2).to_sparse(),
    lambda *_: Odd(),
    inside_torch,
    stops,
    lambda: 1,
    lambda *_: "x",
    lambda *_: {},
    lambda *_: (1, 2),
    lambda *_: torch.zeros(7),
    lambda *_: stops,
]


@pytest.mark.parametrize("exercise", ALL, ids=lambda exercise: exercise.number)
def test_nonsense_is_wrong_and_never_an_exception(exercise):
    for junk in JUNK:
        verdict = judge(exercise.number, junk)
        assert verdict.state == "wrong", (junk, verdict)
        assert verdict.message


@pytest.mark.parametrize("exercise", ALL, ids=lambda exercise: exercise.number)
def test_what_is_not_written_is_not_done(exercise):
    for undone in (None, ..., *((unwritten, lambda *_: None, lambda *_: ...) if exercise.cases else ((..., ...),))):
        assert judge(exercise.number, undone).state == "not done yet"


def test_check_prints_and_remembers(capsys):
    assert not mt.progress(1).complete
    check("1.4", 1024)
    assert capsys.readouterr().out == "✗ 1.4 wrong. That is the variance. The standard deviation is its square root.\n"
    check("1.4", torch.tensor(32))
    assert capsys.readouterr().out.startswith("✓ 1.4 right.")
    check("1.1", ...)
    assert "not done yet" in capsys.readouterr().out
    assert not mt.progress(1).complete
    told = repr(mt.progress(1))
    assert "✓ 1.4" in told
    assert "… 1.1" in told
    assert told.endswith(f"1 of {len(exercises(LESSONS[0]))} right")


def test_a_stopped_function_names_its_line(capsys):
    def scores(q, k):
        return torch.stack([q, q])[:, :, 99]

    check("1.1", scores)
    told = capsys.readouterr().out
    assert told.startswith("✗ 1.1 wrong. For 4 queries and 4 keys of width 4, your function stopped with IndexError: ")
    assert "return torch.stack([q, q])[:, :, 99])" in told


def test_a_function_that_changes_its_argument_is_told():
    def weights(scores):
        scores -= scores.amax(-1, keepdim=True)
        e = scores.exp()
        return e / e.sum(-1, keepdim=True)

    assert "changes what it was given" in judge("1.2", weights).message


def test_a_function_that_changes_a_cache_is_told_and_the_next_answer_is_judged_alike():
    def stream_behind(cache, layer):
        stream = cache["hook_full_embed"]
        for i in range(layer + 1):
            stream += cache["attn_out", i]
            stream += cache["mlp_out", i]
        return stream

    right = next(exercise for exercise in ALL if exercise.number == "4.5").right
    for _ in range(2):
        assert "changes what it was given" in judge("4.5", stream_behind).message
        assert judge("4.5", right).state == "right"


def test_a_branch_without_a_return_is_wrong_not_undone():
    def add_norm(x, norm, f, order):
        return x + f(norm(x)) if order == "pre" else None

    verdict = judge("4.3", add_norm)
    assert verdict.state == "wrong"
    assert "returns nothing" in verdict.message


def test_hints_and_solutions(capsys):
    hints = ALL[2].hints
    mt.hint("1.3")
    assert capsys.readouterr().out == f'{hints[0]}\n(mt.hint("1.3", 2) says more.)\n'
    mt.hint("1.3", 3)
    assert capsys.readouterr().out == f'{hints[2]}\n(mt.solution("1.3") shows a solution.)\n'
    for exercise in ALL:
        mt.solution(exercise.number)
        told = capsys.readouterr().out
        compile(told, "solution", "exec")
        name = re.match(r"\w+", exercise.asks)[0]
        assert re.search(rf"^(def {name}\b|{name} = )", told, flags=re.MULTILINE), told
        assert told.rstrip().endswith(f"# In the library: {exercise.stands}")


@pytest.mark.parametrize("number", ["9.1", "1.99", 1.3, "", "one", None])
def test_an_unknown_exercise_says_which_there_are(number):
    with pytest.raises(mt.MiniTransformerError, match="expected"):
        mt.check(number, 1)


def test_an_unknown_level_or_lesson():
    for level in (0, 4, 1.0, "1", torch.ones(2)):
        with pytest.raises(mt.MiniTransformerError, match="1, 2 or 3"):
            mt.hint("1.1", level)
    with pytest.raises(mt.MiniTransformerError, match="from 1 to 8"):
        mt.progress(9)


def test_what_a_reader_does_to_torch_does_not_reach_the_check():
    right = {exercise.number: exercise.right for exercise in ALL}

    def careless(q, k, v):
        torch.set_default_dtype(torch.float64)
        torch.manual_seed(7)
        return right["1.3"](q, k, v)

    torch.set_grad_enabled(False)
    try:
        for _ in range(2):
            assert judge("1.3", careless).state == "right"
            assert judge("8.2", right["8.2"]).state == "right"  # it computes gradients
        assert torch.get_default_dtype() == torch.float32
    finally:
        torch.set_grad_enabled(True)
        torch.set_default_dtype(torch.float32)


def test_an_answer_may_empty_a_list_it_was_given():
    right = next(exercise for exercise in ALL if exercise.number == "8.2").right

    def train(model, optimizer, batches):
        kept = list(batches)
        batches.clear()
        return right(model, optimizer, kept)

    assert judge("8.2", train).state == "right"


STOP = {"1.1", "1.6"}  # exercises with a known wrong answer that shows as an error


def test_known_wrong_answers_stop_only_where_that_is_meant():
    """One that stops by a mistake of ours would match itself."""
    found = set()
    for exercise, wrong in WRONG:
        for arguments in exercise.cases().values() if exercise.cases else [()]:
            try:
                wrong.answer(*copy.deepcopy(arguments))
            except Exception as error:
                found.add(f"{exercise.number} {wrong.diagnosis:.60} {error!r:.80}")
    assert {told.partition(" ")[0] for told in found} <= STOP, found


def test_an_error_is_never_right_even_where_the_library_has_one(monkeypatch):
    """As where a model that an exercise needs is not installed."""
    exercise = dataclasses.replace(ALL[0], right=stops)
    monkeypatch.setattr(sys.modules["minitransformer.lessons.check"], "exercise_of", lambda number: exercise)
    with pytest.raises(RuntimeError, match="the wrong shape"):
        judge("1.1", stops)
