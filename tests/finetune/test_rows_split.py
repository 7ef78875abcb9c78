"""The split: nothing lost, nothing on two sides, classes in proportion, and always the same for the same seed."""

import random
from collections import Counter
from itertools import chain

import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split

from minitransformer.errors import DataError
from minitransformer.finetune.rows import fingerprint, split_rows
from minitransformer.tasks import Row


def of(labels):
    return [Row(text=str(i), label=label) for i, label in enumerate(labels)]


def place(row):
    return int(row["text"])


def test_images_in_memory_are_told_apart_by_their_pixels():
    """And not by where they are in memory, nor by the corners that numpy shows."""
    black = np.zeros((200, 200, 3), np.uint8)
    spotted = black.copy()
    spotted[100, 100] = 255
    for make in (np.copy, torch.tensor, PIL.Image.fromarray):
        one, again, other = (fingerprint([Row(path=make(pixels), label="a")]) for pixels in (black, black, spotted))
        assert one == again != other


@pytest.mark.parametrize("size", [3, 7, 30, 96])
def test_the_split_is_stratified_like_scikit_learns(size):
    rows = of("a" * 60 + "b" * 30 + "c" * 10)
    train, dev, test = split_rows(rows, dev=size, seed=3)
    assert sorted(train + dev, key=place) == rows
    assert test == []
    _, theirs = train_test_split(rows, test_size=size, stratify=[row["label"] for row in rows], random_state=0)
    ours, theirs = Counter(row["label"] for row in dev), Counter(row["label"] for row in theirs)
    assert all(abs(ours[label] - theirs[label]) <= 1 for label in "abc")


@given(
    st.dictionaries(st.sampled_from("abcde"), st.integers(5, 30), min_size=1),
    st.floats(0, 0.25),
    st.floats(0, 0.25),
    st.randoms(use_true_random=False),
)
def test_each_part_has_the_classes_in_proportion_to_a_row(counts, dev, test, rng):
    labels = [label for label, count in counts.items() for _ in range(count)]
    rng.shuffle(labels)
    rows = of(labels)
    dev, test, seed = int(dev * len(rows)), int(test * len(rows)), rng.randrange(9)
    parts = split_rows(rows, dev=dev, test=test, seed=seed)
    assert sorted(chain(*parts), key=place) == rows
    assert [len(part) for part in parts[1:]] == [dev, test]
    for part, size in zip(parts[1:], (dev, test), strict=True):
        found = Counter(row["label"] for row in part)
        assert all(abs(found[label] - count * size / len(rows)) < 1 for label, count in counts.items())


@given(
    st.lists(st.tuples(st.sampled_from("vwxyz"), st.sampled_from(["a", "b", 1, None, "3.5"])), max_size=40),
    st.floats(0, 1) | st.integers(-1, 20),
    st.floats(0, 1) | st.integers(-1, 20),
    st.sampled_from(["label", None]),
    st.integers(),
)
def test_any_split_is_refused_or_sound(pairs, dev, test, stratify, seed):
    rows = [Row(text=text, label=label, where=str(i)) for i, (text, label) in enumerate(pairs)]
    state = random.getstate()
    try:
        parts = split_rows(rows, dev=dev, test=test, stratify=stratify, seed=seed)
    except DataError:
        return
    assert random.getstate() == state
    assert parts == split_rows(rows, dev=dev, test=test, stratify=stratify, seed=seed)
    assert all([int(row.where) for row in part] == sorted(int(row.where) for row in part) for part in parts)
    assert sorted(int(row.where) for part in parts for row in part) == list(range(len(rows)))
    contents = [{(row["text"], row["label"]) for row in part} for part in parts]
    assert sum(map(len, contents)) == len(set.union(*contents))  # none on two sides
    assert parts[0]
    for part, asked in zip(parts[1:], (dev, test), strict=True):
        wanted = asked if isinstance(asked, int) else asked and max(1, round(asked * len(rows)))
        assert len(part) <= wanted
        assert bool(part) == bool(wanted)
    if stratify and all(label in ("a", "b", 1) for _, label in pairs):
        assert {row["label"] for row in rows} == {row["label"] for row in parts[0]}


def test_seeds_and_the_order_of_rows():
    rows = of("ab" * 20)
    assert split_rows(rows, dev=10) == split_rows(rows, dev=10, seed=0)
    splits = {tuple(place(row) for row in split_rows(rows, dev=10, seed=seed)[1]) for seed in range(5)}
    assert len(splits) == 5
    # Of classes that are equally entitled to one more row, none is always the first.
    firsts = {split_rows(of("aabbccdd"), dev=1, seed=seed)[1][0]["label"] for seed in range(40)}
    assert firsts == set("abcd")


def test_shares_and_numbers():
    rows = of("a" * 95)
    assert [len(part) for part in split_rows(rows)] == [85, 10, 0]
    assert [len(part) for part in split_rows(rows, dev=0.2, test=0.1)] == [66, 19, 10]
    assert [len(part) for part in split_rows(rows, dev=1, test=0)] == [94, 1, 0]
    assert [len(part) for part in split_rows(rows, dev=0.001, test=5)] == [89, 1, 5]
    assert [len(part) for part in split_rows(rows, dev=0)] == [95, 0, 0]


@pytest.mark.parametrize("share", [1.0, 1.5, -0.1, -1, True, float("nan"), "0.1", None])
def test_shares_that_are_none(share):
    with pytest.raises(DataError, match=r"dev: got .*expected a share between 0 and 1 or a whole number"):
        split_rows(of("ab" * 9), dev=share)


@pytest.mark.parametrize(
    ("labels", "dev", "test", "told"),
    [
        ("", 0, 0, "cannot split 0 rows"),
        ("a", 0.1, 0, "cannot split 1 rows"),
        ("aaaaa", 5, 0, "leave none to train on"),
        ("aaaaa", 0.6, 0.4, "leave none to train on"),
        ("abcde", 1, 0, "cannot hold out 1 of 5 rows, 0 at most: each class keeps a row"),
        ("aabbc", 2, 1, "test: cannot hold out 1 of 5 rows, 0 at most"),
    ],
)
def test_too_few_rows(labels, dev, test, told):
    with pytest.raises(DataError, match=told):
        split_rows(of(labels), dev=dev, test=test)


def test_the_only_row_of_a_label_is_not_held_out():
    for seed in range(5):
        train, dev, _ = split_rows(of("a" * 10 + "b" * 9 + "c"), dev=4, seed=seed)
        assert "c" in {row["label"] for row in train}
        assert Counter(row["label"] for row in dev) == {"a": 2, "b": 2}


def test_the_same_row_twice_is_on_one_side():
    rows = [Row(label="ab"[i % 2], text=str(i % 30), where=str(i)) for i in range(60)]
    parts = split_rows(rows, dev=10, test=10)
    assert [len(part) for part in parts] == [40, 10, 10]
    texts = [{row["text"] for row in part} for part in parts]
    assert [len(part) for part in texts] == [20, 5, 5]
    with pytest.raises(DataError, match=r"dev: cannot hold out 1 of 20 rows: .* stay together, 10 at least"):
        split_rows([Row(text=text) for text in "ab" * 10], dev=1)


def test_questions_to_one_context_are_on_one_side():
    rows = [Row(question=str(i), context=f"context {i % 10}", answers=[]) for i in range(50)]
    parts = split_rows(rows, dev=0.2, test=7)
    assert [len(part) for part in parts] == [35, 10, 5]
    contexts = [{row["context"] for row in part} for part in parts]
    assert [len(part) for part in contexts] == [7, 2, 1]


def test_numbers_and_lists_are_no_classes():
    for labels in ([1.5, 2.5, 3.5, 4.5], [["a"], ["b"], ["c"], ["d"]], [None] * 4):
        assert [len(part) for part in split_rows(of(labels), dev=1)] == [3, 1, 0]
    with pytest.raises(DataError, match="each class keeps a row"):
        split_rows(of("1234"), dev=1)
    assert [len(part) for part in split_rows(of("1234"), dev=1, stratify=None)] == [3, 1, 0]


def test_stars_are_classes():
    """As a table has them, "4.5" and " 4.5 ": finetune divides them by class, for the tasks that have classes."""
    labels = ["5.0"] * 30 + ["4.5", " 4.5 "] * 5
    train, dev, _ = split_rows(of(labels), dev=8)
    assert Counter(row["label"].strip() for row in dev) == {"5.0": 6, "4.5": 2}
    assert Counter(row["label"].strip() for row in train) == {"5.0": 24, "4.5": 8}


def test_images_are_what_is_in_their_files(tmp_path):
    for name, content in {"a.png": b"one", "b.png": b"one", "c.png": b"two"}.items():
        (tmp_path / name).write_bytes(content)
    first, same, other = ([Row(path=str(tmp_path / f"{name}.png"), label="x")] for name in "abc")
    assert fingerprint(first) == fingerprint(same) != fingerprint(other)
    rows = [Row(path=str(tmp_path / f"{'abab'[i % 4]}.png"), label="x") for i in range(4)] + other * 4
    for seed in range(8):
        train, dev, _ = split_rows(rows, dev=4, seed=seed)
        assert {row["path"][-5] for row in train} & {row["path"][-5] for row in dev} == set()


def test_a_column_of_another_name():
    rows = [Row(text=str(i), topic="ab"[i % 2], label="x") for i in range(20)]
    assert Counter(row["topic"] for row in split_rows(rows, dev=6, stratify="topic")[1]) == {"a": 3, "b": 3}


def test_the_fingerprint_is_that_of_the_content_in_its_order():
    rows = of("ab")
    assert fingerprint(rows) == fingerprint([Row(label="a", text="0", where="elsewhere"), rows[1]])
    others = ([], rows[:1], rows[::-1], [*rows, rows[0]], of("aa"), [Row(text="0", label="a"), Row(text=1, label="b")])
    assert len({fingerprint(other) for other in (rows, *others)}) == 7
    assert len(fingerprint(rows)) == 64
