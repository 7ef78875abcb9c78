"""Check an answer, say which mistake was made, give hints and solutions, and keep what was right in this session."""

import copy
import textwrap
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from minitransformer.errors import InputError
from minitransformer.lens.words import visible
from minitransformer.lessons.book import LESSONS, exercise_of, exercises, lesson_of
from minitransformer.lessons.exercise import Cases, Exercise
from minitransformer.lessons.notebooks import solution_of
from minitransformer.lessons.same import difference

State = Literal["right", "wrong", "not done yet"]
MARKS: dict[State, str] = {"right": "✓", "wrong": "✗", "not done yet": "…"}


@dataclass(frozen=True)
class Verdict:
    """What became of an answer."""

    number: str
    state: State
    message: str  # sentences: which mistake it is, as far as that is known

    def __str__(self) -> str:
        """One line."""
        return visible(f"{MARKS[self.state]} {self.number} {self.state}. {self.message}".rstrip())


_verdicts: dict[str, Verdict] = {}  # the last of each exercise in this process


def check(number: str, answer: Any) -> None:
    """Check an answer to the exercise of that number, and print what was found: mt.check("1.3", attention).

    A function is called on seeded cases. First shapes and values are compared with the library's; if they differ, with
    each wrong answer that is known, to say which mistake it is. The right answer is never shown: see `solution`.
    """
    verdict = judge(number, answer)
    _verdicts[verdict.number] = verdict
    print(verdict)


def hint(number: str, level: int = 1) -> None:
    """Print a hint for the exercise: mt.hint("1.3"). Levels 1 to 3; each says more."""
    exercise = exercise_of(number)
    if not isinstance(level, int) or level not in (1, 2, 3):
        raise InputError(f"level: got {level!r:.40}, expected 1, 2 or 3")
    more = f'mt.hint("{number}", {level + 1}) says more' if level < 3 else f'mt.solution("{number}") shows a solution'
    print(f"{exercise.hints[level - 1]}\n({more}.)")


def solution(number: str) -> None:
    """Print a solution of the exercise: that of the solved notebook. The library's own stands where the text says."""
    exercise = exercise_of(number)
    print(f"{solution_of(lesson_of(number.partition('.')[0]), number)}\n\n# In the library: {exercise.stands}")


@dataclass(frozen=True)
class Progress:
    """The exercises of some lessons, and what became of them in this session."""

    verdicts: tuple[Verdict, ...]

    @property
    def complete(self) -> bool:
        """Whether every answer is right."""
        return all(verdict.state == "right" for verdict in self.verdicts)

    def __repr__(self) -> str:
        right = sum(verdict.state == "right" for verdict in self.verdicts)
        lines = [f"{MARKS[v.state]} {v.number} {exercise_of(v.number).asks}" for v in self.verdicts]
        return "\n".join((*lines, f"{right} of {len(lines)} right"))


def progress(lesson: int | None = None) -> Progress:
    """What was checked since Python was started: of one lesson, or of all."""
    return Progress(
        tuple(
            _verdicts.get(exercise.number, Verdict(exercise.number, "not done yet", ""))
            for each in ([lesson_of(lesson)] if lesson is not None else LESSONS)
            for exercise in exercises(each)
        )
    )


def verdicts() -> list[Verdict]:
    """The last verdict of each exercise that was checked since Python was started."""
    return list(_verdicts.values())


def judge(number: str, answer: Any) -> Verdict:
    """What `check` prints."""
    exercise = exercise_of(number)
    try:
        results = _results(exercise, answer)
    except _NotDoneError as reason:
        return Verdict(number, "not done yet", f'{reason}mt.hint("{number}") helps.')
    except _UnusableError as reason:
        return Verdict(number, "wrong", str(reason))
    difference = _difference(exercise, results, exercise.right)
    if difference is None:
        return Verdict(number, "right", f"The library's own: {exercise.stands}.")
    for wrong in exercise.wrong:
        if _difference(exercise, results, wrong.answer) is None:
            return Verdict(number, "wrong", wrong.diagnosis)
    return Verdict(number, "wrong", difference)


@dataclass(frozen=True)
class Stopped:
    """What stands in place of a result where a function stopped with an error."""

    kind: str
    message: str
    told: str = field(compare=False)  # where, and in which line


class _NotDoneError(Exception):
    """An answer that is not there yet."""


class _UnusableError(Exception):
    """An answer that cannot be compared."""


def _results(exercise: Exercise, answer: Any) -> dict[str, Any]:
    """What the reader's answer gives for each case; a value is the one result."""
    if _unfinished(answer):
        raise _NotDoneError
    is_function = callable(answer) and not isinstance(answer, Tensor)
    if exercise.cases is None:
        if is_function:
            raise _UnusableError(f"You gave a function, expected a value: {exercise.asks}.")
        return {"": answer}
    if not is_function:
        raise _UnusableError(
            f"You gave a {type(answer).__name__}, expected the function itself, not called: {exercise.asks}."
        )
    results = {about: _called(answer, about, arguments) for about, arguments in _cases(exercise).items()}
    empty = [about for about, result in results.items() if _unfinished(result)]
    if len(empty) == len(results):
        raise _NotDoneError("It returns nothing so far. ")
    if empty:
        raise _UnusableError(f"For {empty[0]}, your function returns nothing; is a `return` missing in one branch?")
    return results


def _called(function: Callable[..., Any], about: str, arguments: tuple[Any, ...]) -> Any:
    """What a reader's function gives for a case. What stops it is told in a sentence, without a traceback."""
    given = copy.deepcopy(arguments)  # what the function does to them must not reach the next check
    try:
        with _same_start():
            result = function(*given)
    except (Exception, SystemExit) as error:
        own = _own_lines(error, function)
        if isinstance(error, NotImplementedError) and own and (own[-1].line or "").startswith("raise"):
            raise _NotDoneError from None  # torch has such errors of its own
        where = f" (line {own[-1].lineno}: {own[-1].line})" if own else ""
        stopped = _stopped(error)
        told = f"For {about}, your function stopped with {stopped.kind}: {stopped.message}{where}"
        return replace(stopped, told=told)
    if any(_changed(before, after) for before, after in zip(arguments, given, strict=True)):
        raise _UnusableError(
            f"For {about}, your function changes what it was given (+= does, for one); make a new tensor instead."
        )
    return result


def _difference(exercise: Exercise, results: dict[str, Any], known: Callable[..., Any]) -> str | None:
    """Where the results differ from those of a known answer, as a sentence; None if nowhere."""
    for about, arguments in _cases(exercise).items():
        with _same_start():
            try:
                expected = known(*arguments)
            except Exception as error:
                if known is exercise.right:  # a fault of ours, or a model is missing
                    raise
                expected = _stopped(error)  # many a mistake shows as an error
        found = _difference_of(results[about], expected, exercise.tolerance)
        if found is not None:
            told = f"For {about}, your result {found}." if about else f"Your answer {found}."
            return results[about].told if isinstance(results[about], Stopped) else told
    return None


def _difference_of(result: Any, expected: Any, tolerance: float) -> str | None:
    if isinstance(result, Stopped) or isinstance(expected, Stopped):
        return None if result == expected else "is there, and the other's is not"
    try:
        return difference(result, expected, tolerance)
    except Exception:  # whatever a strange object does when it is looked at
        return f"is a {type(result).__name__}, which cannot be compared"


def _cases(exercise: Exercise) -> Cases:
    """The arguments of each case; of a value, one case without any."""
    with _same_start():
        return {"": ()} if exercise.cases is None else exercise.cases()


@contextmanager
def _same_start() -> Iterator[None]:
    """Whatever the reader has done to torch's generator, gradients and default type: the same at each call."""
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(0)
            yield
    finally:
        torch.set_default_dtype(usual)


def _stopped(error: BaseException) -> Stopped:
    try:
        message = textwrap.shorten(str(error), 300, placeholder=" …")
    except Exception:
        message = "without a message"
    return Stopped(type(error).__name__, message, "")


def _unfinished(result: Any) -> bool:
    """Whether it is what the reader finds: nothing, or dots."""
    kind = type(result)
    parts = result if kind in (tuple, list) else result.values() if kind is dict else [result]
    return any(part is None or part is ... for part in parts)


def _changed(before: Any, after: Any) -> bool:
    """Whether a tensor, or one in a mapping or list, has been changed where it lies."""
    if isinstance(before, Tensor):
        return not torch.equal(before.nan_to_num(), after.nan_to_num())
    if isinstance(before, Mapping):
        return any(_changed(before[name], after[name]) for name in before if name in after)
    if isinstance(before, list | tuple):
        return len(before) == len(after) and any(map(_changed, before, after))
    return False


def _own_lines(error: BaseException, function: Callable[..., Any]) -> list[traceback.FrameSummary]:
    """The lines of the reader's own file that led to the error, the innermost last."""
    code = getattr(function, "__code__", None)
    return [frame for frame in traceback.extract_tb(error.__traceback__) if code and frame.filename == code.co_filename]
