"""Answers as spans of a text: windows and loss of transformers, the search beside a plain one, answers recovered."""

import itertools
import json
import os
from pathlib import Path

import pytest
import torch
import transformers
from small_task_models import FOLDERS, WORDS, bert, load, mean_and_parts, overfit, roberta, their_loss
from small_writers import bart

import minitransformer as mt
from minitransformer.errors import DataError, InputError
from minitransformer.metrics import spans
from minitransformer.tasks import Row
from minitransformer.tasks.inference import predict
from minitransformer.tasks.span import Answer, Span, windows

CLASSES = {
    "bert": transformers.BertForQuestionAnswering,
    "roberta": transformers.RobertaForQuestionAnswering,
    "bart": transformers.BartForQuestionAnswering,
}


def drawn(count, words, seed=3):
    """Contexts of up to so many words, each with one answer of one to three words; of every fifth row, none."""
    generator = torch.Generator().manual_seed(seed)
    for number in range(count):
        length = int(torch.randint(4, words + 1, (), generator=generator))
        texts = [WORDS[i] for i in torch.randint(len(WORDS), (length,), generator=generator).tolist()]
        first = int(torch.randint(length - 3, (), generator=generator))
        answer = " ".join(texts[first : first + 1 + number % 3])
        start = len(" ".join([*texts[:first], ""]))
        answers = [{"text": answer, "answer_start": start}] if number % 5 else []
        yield Row(question=f"who {' '.join(texts[first : first + 3])}", context=" ".join(texts), answers=answers)


ROWS = list(drawn(16, 30))


@pytest.fixture(scope="module", params=FOLDERS)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def folder(family, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / family
    folder.mkdir()
    return bart(folder, dropout=0.0) if family == "bart" else FOLDERS[family](folder)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A BERT, for what has nothing to do with the family."""
    return mt.load(bert(tmp_path_factory.mktemp("models") / "small"), head=Span.kind.head)


# Windows


@pytest.mark.parametrize(("max_length", "stride"), [(384, 128), (24, 5), (23, 0), (40, 12)])
def test_windows_are_transformers(folder, max_length, stride):
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    task = Span(mt.load(folder, head=Span.kind.head).tokenizer, max_length, stride=stride)
    rows = [*drawn(20, 40, seed=8), Row(question="who?", context=" Café “Ω”  –  naïve 日本語  ", answers=[])]
    examples = task.encode(rows)
    expected = tokenizer(
        [row["question"] for row in rows],
        [row["context"] for row in rows],
        truncation="only_second",
        max_length=max_length,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    assert [example.row for example in examples] == expected["overflow_to_sample_mapping"]
    assert (len(examples) > len(rows)) == (max_length < 384)
    for place, example in enumerate(examples):
        assert example.inputs["input_ids"] == expected["input_ids"][place]
        if "token_type_ids" in expected:
            assert example.inputs["token_type_ids"] == expected["token_type_ids"][place]
        owners = expected.sequence_ids(place)
        offsets = [list(x) for x, owner in zip(expected["offset_mapping"][place], owners, strict=True) if owner == 1]
        assert example.extra.first == owners.index(1)
        assert example.extra.offsets.tolist() == offsets


def test_a_long_question_shortens_the_overlap(small):
    task = Span(small.tokenizer, 16, stride=8)
    row = Row(question="who " * 7, context="the film " * 6, answers=[])
    examples = task.encode([row])  # 10 of 16 tokens are taken
    assert windows(12, 6, 8) == [range(6), range(3, 9), range(6, 12)]
    assert [len(example) for example in examples] == [16] * 3
    assert len({tuple(example.inputs["input_ids"][:9]) for example in examples}) == 1
    assert len(task.encode([Row(row, question="who " * 12)])) == 12  # one token of the context at a time
    with pytest.raises(DataError, match="a row: 'question' leaves no room for 'context' in 16 tokens; cut it"):
        task.encode([Row(row, question="who " * 13)])


def test_windows_cover_everything():
    for count in range(1, 30):
        for room in range(1, 12):
            for stride in range(14):
                parts = windows(count, room, stride)
                assert sorted({place for part in parts for place in part}) == list(range(count))
                assert all(len(part) == room for part in parts[:-1])
                shared = [one.stop - other.start for one, other in itertools.pairwise(parts)]
                assert set(shared) <= {stride if stride < room else room // 2}


# Targets


def text_of(example, context):
    """What an example's target says, by the offsets of its tokens; None where it says nothing."""
    if example.target == (0, 0):
        return None
    first, last = (place - example.extra.first for place in example.target)
    assert first >= 0
    return context[example.extra.offsets[first, 0] : example.extra.offsets[last, 1]]


def test_answers_are_recovered(folder):
    """From every window that has the answer in full, and from no other."""
    tokenizer = mt.load(folder, head=Span.kind.head).tokenizer
    rows = [row for row in drawn(60, 40, seed=9) if row["answers"]]
    context = "A 日本語 “quote”,  and naïve café–bar."
    for text in ("日本語", "本", "“quote”", "naïve", "café", "bar", "A", ".", " and ", context):
        answers = [{"text": text, "answer_start": context.index(text)}]
        rows.append(Row(question="who", context=context, answers=answers))
    plain, unknown = Span(tokenizer, 384).encode(rows), 0
    assert len(plain) == len(rows)
    for row, example in zip(rows, plain, strict=True):
        found = text_of(example, row["context"])
        unknown += found.strip() != row["answers"][0]["text"].strip()
    assert unknown == 0
    examples = Span(tokenizer, 48, stride=6).encode(rows)
    assert {example.row for example in examples if text_of(example, "") is not None}
    for example in examples:
        answer, offsets = rows[example.row]["answers"][0], example.extra.offsets
        text, start = answer["text"].strip(), answer["answer_start"] + answer["text"].startswith(" ")
        tokens = [place for place, (a, b) in enumerate(offsets.tolist()) if b > start and a < start + len(text)]
        whole = plain[example.row].target[1] - plain[example.row].target[0] + 1
        assert (text_of(example, rows[example.row]["context"]) is not None) == (len(tokens) == whole)


def test_no_answer(small):
    examples = Span(small.tokenizer).encode([Row(question="who", context="the film", answers=[])])
    assert [example.target for example in examples] == [(0, 0)]


# Loss


def test_the_loss_is_transformers(family, folder, tmp_path):
    model = load(folder, Span.kind.head)
    task = Span(model.tokenizer, 56, stride=7)
    examples = task.encode(ROWS)
    assert len(examples) > len(ROWS) or family == "bert"
    assert {example.target == (0, 0) for example in examples} == {True, False}
    batch = task.collate(examples)
    whole, parts = mean_and_parts(task, model.transformer, batch)
    if family == "bart":
        batch["decoder_attention_mask"] = torch.ones_like(batch["attention_mask"])
    expected = their_loss(CLASSES[family], model, batch, tmp_path / "ours")
    assert whole == pytest.approx(expected, abs=1e-9)
    assert parts == pytest.approx(expected, abs=1e-9)


# Answers


def searched(row, parts, longest, may_be_empty):
    """The best span by trying all of them. parts: (start logits, end logits, offset or None of each token)."""
    best, none = (-1e9, 0, 0, 0.0), (1e9, 0.0)
    for start, end, offsets in parts:
        starts, ends = start.softmax(0).tolist(), end.softmax(0).tolist()
        start, end = start.tolist(), end.tolist()
        none = min(none, (start[0] + end[0], starts[0] * ends[0]))
        for i, first in enumerate(offsets):
            for j, last in enumerate(offsets[i : i + longest], start=i):
                if first is not None and last is not None and start[i] + end[j] > best[0]:
                    best = (start[i] + end[j], first[0], last[1], starts[i] * ends[j])
    if may_be_empty and none[0] > best[0]:
        return "", none[1]
    return row["context"][best[1] : best[2]].strip(), best[3]


@pytest.mark.parametrize("may_be_empty", [False, True])
def test_the_search_finds_the_best_of_all_windows(folder, may_be_empty):
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    task = Span(mt.load(folder, head=Span.kind.head).tokenizer, 32, stride=8, longest=4, may_be_empty=may_be_empty)
    rows = [*drawn(30, 40, seed=4), Row(question="who", context="  the  café ")]
    examples = task.encode(rows, targets=False)
    options = {"truncation": "only_second", "max_length": 32, "stride": 8, "return_overflowing_tokens": True}
    texts = [row["question"] for row in rows], [row["context"] for row in rows]
    theirs = tokenizer(*texts, return_offsets_mapping=True, **options)
    parts, decoded = [[] for _ in rows], []
    for place, owner in enumerate(theirs["overflow_to_sample_mapping"]):
        start, end = torch.randn(2, 40)  # padded to 40
        start[len(theirs["input_ids"][place]) :] = 100.0
        owners, offsets = theirs.sequence_ids(place), theirs["offset_mapping"][place]
        inside = [offset if owner == 1 else None for owner, offset in zip(owners, offsets, strict=True)]
        start[0] += 9.0 * (owner % 2)
        parts[owner].append((start[: len(inside)], end[: len(inside)], inside))
        decoded.append((start, end))
    answers = task.answers(rows, examples, decoded)
    for row, answer, windows_of_row in zip(rows, answers, parts, strict=True):
        text, score = searched(row, windows_of_row, 4, may_be_empty)
        assert (answer.question, answer.text) == (row["question"], text)
        assert answer.score == pytest.approx(score, rel=1e-4)
        assert row["context"][answer.start : answer.end] == answer.text
    empty = sum(not answer.text for answer in answers)
    assert empty > 8 if may_be_empty else empty < 4  # RoBERTa has tokens of a space alone


@pytest.mark.parametrize("make", [bert, roberta])
def test_answers_are_learned_and_predicted(make, tmp_path):
    torch.manual_seed(0)
    model = mt.load(make(tmp_path / "model"), head=Span.kind.head)
    task = Span(model.tokenizer, 64, stride=16, may_be_empty=True)
    assert overfit(task, model.transformer, ROWS, steps=70) < 1e-2
    answers = predict(model.transformer, task, [task.row((r["question"], r["context"])) for r in ROWS], batch_size=5)
    right = [row["answers"][0]["text"] if row["answers"] else "" for row in ROWS]
    assert [answer.text for answer in answers] == right
    assert min(answer.score for answer in answers) > 0.9
    scores = task.score(answers, ROWS)
    assert scores["exact_match"] == scores["f1"] == 1
    assert task.score([Answer("", "a", 1.0, 0, 1)] * 16, ROWS)["f1"] < 0.5


# What is refused


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({}, "'answers' is not among the columns question, context, expected a list"),
        ({"answers": "film"}, "'answers' is 'film', expected a list of"),
        ({"answers": ["film"]}, "'answers' has 'film', expected {text, answer_start}"),
        ({"answers": [{"text": "film"}]}, r"'answers' has {'text': 'film'}, expected {text, answer_start}"),
        ({"answers": [{"text": "film", "answer_start": "4"}]}, ".* expected {text, answer_start}"),
        ({"answers": [{"text": " ", "answer_start": 3}]}, ".* expected {text, answer_start}"),
        ({"answers": [{"text": "film", "answer_start": 3}]}, "'answers' has 'film' at 3, where 'context' has ' fil'"),
        ({"answers": [{"text": "film", "answer_start": -4}]}, "'answers' has 'film' at -4, where 'context' has ''"),
        ({"answers": [], "question": ""}, "'question' is '', expected a text"),
        ({"answers": [], "context": None}, "'context' is None, expected a text"),
        ({"answers": [], "context": "\u200b\u0001"}, "the tokenizer finds no token in 'context'"),
        (
            {"answers": [{"text": "\u0001", "answer_start": 1}], "context": "a\u0001b"},
            "the tokenizer finds no token in the answer",
        ),
    ],
)
def test_bad_rows(small, row, message):
    with pytest.raises(DataError, match=f"a.json, row 7: {message}"):
        Span(small.tokenizer).encode([Row({"question": "who", "context": "the film", **row}, where="a.json, row 7")])


def test_bad_arguments(small):
    with pytest.raises(InputError, match="stride, longest: got -1 and 30"):
        Span(small.tokenizer, stride=-1)
    with pytest.raises(InputError, match="got 'who', expected a tuple of a question and its context"):
        Span(small.tokenizer).row("who")


# Real data


def test_real_answers_are_recovered(folder):
    if "MINITRANSFORMER_DATA" not in os.environ:
        pytest.skip("MINITRANSFORMER_DATA is not set")
    given = json.loads((Path(os.environ["MINITRANSFORMER_DATA"]) / "squad" / "sample-v1.1.json").read_text("utf-8"))
    rows = [
        Row(question=asked["question"], context=paragraph["context"], answers=asked["answers"])
        for article in given["data"]
        for paragraph in article["paragraphs"]
        for asked in paragraph["qas"]
        if asked["answers"]
    ]
    found = {}
    for example in Span(mt.load(folder, head=Span.kind.head).tokenizer, 384, stride=128).encode(rows):
        text = text_of(example, rows[example.row]["context"])
        if text is not None:
            found[example.row] = text
    right = [[row["answers"][0]["text"]] for row in rows]
    assert len(rows) > 500
    # A byte-level tokenizer that learned from other texts may have a token that goes beyond the end of an answer.
    assert spans([found.get(place, "") for place in range(len(rows))], right)["exact_match"] >= 0.99
