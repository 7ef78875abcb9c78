"""Tags of words: the same tokens and loss as transformers, each word once, entities as seqeval sees them."""

import os
import warnings
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics.sequence_labeling import get_entities
from small_readers import reader
from small_writers import marian

import minitransformer as mt
from minitransformer.errors import DataError, InputError, TokenizerError
from minitransformer.tasks.inference import inference, predict
from minitransformer.tasks.tag import Entity, Tag, entity_spans
from minitransformer.tasks.task import Criterion, Row
from minitransformer.tasks.words import encode_words, find_words, windows

FAMILIES = ["bert", "roberta", "gpt2", "albert", "xlm-roberta", "t5"]
WORDS = [
    "John",
    "'s",
    "U.N.",
    "film",
    "日本",
    "\x00",
    "\u200b",
    "café",
    "don't",
    "x" * 40,
    "two words",
    "\U0001f600",
    "a",
]
SENTENCES = [
    "Anna/B-per Maria/I-per Smith/I-per saw/O a/O film/O in/O New/B-loc York/I-loc ./O",
    "The/O director/O of/O Alien/B-film is/O Ridley/B-per Scott/I-per ./O",
    "Paris/B-loc is/O not/O in/O this/O movie/O ,/O but/O Rome/B-loc is/O ./O",
    "nothing/O here/O worked/O for/O me/O",
]
ROWS = [
    Row(words=[pair.rsplit("/", 1)[0] for pair in line.split()], tags=[pair.rsplit("/", 1)[1] for pair in line.split()])
    for line in SENTENCES
]
LABELS = ("O", "B-film", "I-film", "B-loc", "I-loc", "B-per", "I-per")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """folder("bert"): a small model of that family; made once."""
    made = {}

    def folder(family):
        if family not in made:
            made[family] = reader(tmp_path_factory.mktemp(family), family)
        return made[family]

    return folder


def model_and_task(folder, labels=LABELS, max_length=None, **options):
    torch.manual_seed(0)
    model = mt.load(folder, head="token-classification", labels=labels)
    return model, Tag(model.tokenizer, labels, max_length, **options)


def mean_loss(model, task, examples):
    with inference(model.transformer):
        parts = [task.loss(model.transformer, task.collate(examples[i : i + 4])) for i in range(0, len(examples), 4)]
    return float(sum(total for total, _ in parts) / sum(count for _, count in parts))


def long_row(words, repeats=9):
    """A sentence of many words, with a tag for each that tells which it is."""
    words = [words[i % len(words)] for i in range(repeats * len(words))]
    return Row(words=words, tags=[LABELS[i % len(LABELS)] for i in range(len(words))], where="a long row")


@pytest.mark.parametrize("family", FAMILIES)
def test_each_word_has_the_tokens_that_transformers_gives_it(folder, family):
    ours = mt.load(folder(family)).tokenizer
    theirs = transformers.AutoTokenizer.from_pretrained(folder(family), add_prefix_space=True)
    sentences = [WORDS, ["film"], ["a", "a"], WORDS[::-1]]
    expected = theirs(sentences, is_split_into_words=True)
    for i, encoding in enumerate(encode_words(ours, sentences)):
        assert encoding.ids == expected["input_ids"][i]
        assert encoding.word_ids == expected.word_ids(i)


@pytest.mark.parametrize(("family", "stride"), [("bert", 0), ("bert", 32), ("gpt2", 3), ("t5", 3)])
def test_in_windows_each_word_is_judged_once(folder, family, stride):
    model, task = model_and_task(folder(family), max_length=20, stride=stride)
    row = long_row([word for word in WORDS if word not in ("x" * 40, "\x00", "\u200b")])
    examples = task.encode([row, ROWS[0], row])
    assert len(examples) > 10
    assert all(len(example) <= 20 and example.lost == 0 for example in examples)
    for place in (0, 2):
        parts = [example for example in examples if example.row == place]
        judged = [
            (word, label)
            for x in parts
            for word, label in zip(x.inputs["words"], x.target, strict=True)
            if label != -100
        ]
        assert judged == [(word, LABELS.index(tag)) for word, tag in enumerate(row["tags"])]
        read = [token for x in parts for token in x.inputs["input_ids"]]
        assert (len(read) > sum(map(len, task.encode([row])[:1]))) is True
    batch = task.collate(examples)
    assert task.count(batch) == 2 * len(row["words"]) + len(ROWS[0]["words"])
    assert task.loss(model.transformer, batch)[1] == task.count(batch)


def test_the_loss_of_windows_is_that_of_their_words(folder):
    """transformers reads each window by itself; each word's loss is taken where it is judged, and summed."""
    model, task = model_and_task(folder("bert"), max_length=16, stride=6)
    model.save(folder("bert") / "tags")
    theirs = transformers.BertForTokenClassification.from_pretrained(folder("bert") / "tags").eval()
    row = long_row([*WORDS[:5], "film"])
    examples, losses = task.encode([row]), {}
    for example in examples:
        with torch.no_grad():
            logits = theirs(torch.tensor([example.inputs["input_ids"]])).logits[0].log_softmax(-1)
        for token, word in enumerate(example.inputs["words"]):
            if word >= 0:
                losses[word] = -logits[token, LABELS.index(row["tags"][word])].item()
    assert len(losses) == len(row["words"])
    mean = mean_loss(model, task, examples)
    assert mean == pytest.approx(sum(losses.values()) / len(losses), rel=1e-5)


def test_loss_is_that_of_transformers(folder):
    model, task = model_and_task(folder("bert"))
    model.eval().save(folder("bert") / "whole")
    theirs = transformers.BertForTokenClassification.from_pretrained(folder("bert") / "whole").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder("bert"))
    batch = tokenizer([row["words"] for row in ROWS], is_split_into_words=True, padding=True, return_tensors="pt")
    labels = torch.full_like(batch["input_ids"], -100)
    for i, row in enumerate(ROWS):
        ids = batch.word_ids(i)
        for token, word in enumerate(ids):
            if word is not None and word not in ids[:token]:
                labels[i, token] = LABELS.index(row["tags"][word])
    ours = task.collate(task.encode(ROWS))
    assert torch.equal(ours["labels"], labels)
    assert all(torch.equal(ours[name], batch[name]) for name in batch)
    total, count = task.loss(model.transformer, ours)
    torch.testing.assert_close(total / count, theirs(**batch, labels=labels).loss, atol=1e-6, rtol=1e-5)
    parts = [task.loss(model.transformer, {name: x[part] for name, x in ours.items()}) for part in ([0], [1, 2, 3])]
    torch.testing.assert_close(sum(part for part, _ in parts), total)
    assert sum(count for _, count in parts) == task.count(ours)


def test_weights_of_classes_count(folder):
    weights = torch.tensor([0.1, *[1.0] * 6])
    model, task = model_and_task(folder("bert"), criterion=Criterion(weights=weights, label_smoothing=0.1))
    batch = task.collate(task.encode(ROWS))
    total, count = task.loss(model.eval().transformer, batch)
    logits = model(**{name: x for name, x in batch.items() if name != "labels"}).logits
    expected = torch.nn.CrossEntropyLoss(weight=weights, label_smoothing=0.1)(
        logits.flatten(0, 1), batch["labels"].flatten()
    )
    torch.testing.assert_close(total / count, expected)
    torch.testing.assert_close(task.count(batch), count)


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_sixteen_sentences_are_learned_by_heart(folder, family):
    rows = [Row(words=[*row["words"], str(i)], tags=[*row["tags"], "O"]) for i in range(4) for row in ROWS]
    model, task = model_and_task(folder(family), Tag.kind.labels_of(rows), max_length=16, stride=4)
    batch = task.collate(task.encode(rows))
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-2)
    for _ in range(40):
        total, count = task.loss(model.transformer, batch)
        optimizer.zero_grad()
        (total / count).backward()
        optimizer.step()
    assert mean_loss(model, task, task.encode(rows)) < 1e-2
    answers = predict(model.transformer, task, rows, batch_size=5)
    assert [answer.tags for answer in answers] == [row["tags"] for row in rows]
    scores = task.score(answers, rows)
    assert scores[task.kind.metric] == scores["accuracy"] == 1
    assert [(x.label, x.text) for x in answers[0].entities] == [("per", "Anna Maria Smith"), ("loc", "New York")]

    text = "Anna Maria Smith saw a film in New York. 0"
    [answer] = predict(model.transformer, task, [task.row(text)], batch_size=1)
    assert answer.words == rows[0]["words"]
    assert [text[x.start : x.end] for x in answer.entities] == ["Anna Maria Smith", "New York"]
    assert [(x.start_word, x.end_word) for x in answer.entities] == [(0, 3), (7, 9)]
    assert all(x.score > 0.9 for x in answer.entities)


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=40),
    st.integers(1, 20).flatmap(lambda room: st.tuples(st.just(room), st.integers(0, room // 2))),
)
def test_windows_cover_each_word_once(lengths, room_and_overlap):
    room, overlap = room_and_overlap
    found = windows(lengths, room, overlap)
    assert [word for window in found for word in window.judged] == list(range(len(lengths)))
    for window in found:
        sizes = [lengths[word] for word in window.read]
        assert set(window.judged) <= set(window.read)
        assert sum(sizes) <= room or sum(map(bool, sizes)) == 1
        assert len(window.judged) > 0
    for one, following in pairwise(found):
        assert one.read.stop > following.read.start or one.read.stop == following.read.start
        shared = range(following.read.start, one.read.stop)
        assert sum(lengths[word] for word in shared) <= overlap
        for word in shared:  # judged where the nearer edge is farther away
            left, right = word - following.read.start, one.read.stop - 1 - word
            assert (word in one.judged) is (right > left) or right == left


def test_a_window_is_as_full_as_it_may_be():
    assert [(w.read, w.judged) for w in windows([1] * 10, 6, 2)] == [
        (range(6), range(5)),
        (range(4, 10), range(5, 10)),
    ]
    assert [w.read for w in windows([3, 3, 5, 1], 6, 3)] == [range(2), range(2, 4)]
    assert [w.read for w in windows([1, 9, 1], 4, 2)] == [range(1), range(1, 2), range(2, 3)]


TAGS = ["O", *(f"{prefix}-{kind}" for prefix in "BIES" for kind in ("a", "b-c"))]


@given(st.lists(st.sampled_from(TAGS), max_size=12))
def test_entities_are_those_of_seqeval(tags):
    assert entity_spans(tags) == [(kind, first, last + 1) for kind, first, last in get_entities(tags)]


def test_labels_are_the_same_for_each_split():
    assert Tag.kind.labels_of(ROWS) == LABELS
    assert Tag.kind.labels_of(ROWS[::-1]) == LABELS
    old = [Row(words=["a", "b"], tags=["I-x", "O"])]  # CoNLL-2003 as it was first published
    assert Tag.kind.labels_of(old) == ("O", "B-x", "I-x")
    single = [Row(words=["a", "b", "c"], tags=["S-x", "B-y-z", "E-y-z"])]
    assert Tag.kind.labels_of(single) == ("O", "B-x", "I-x", "E-x", "S-x", "B-y-z", "I-y-z", "E-y-z", "S-y-z")
    speech = [Row(words=["a", "b", "c"], tags=["VERB", "ADJ", "NOUN"])]
    assert Tag.kind.labels_of(speech) == ("ADJ", "NOUN", "VERB")
    for tags in (["O", "O"], ["NN", "NN"]):
        with pytest.raises(DataError, match="nothing to tell apart"):
            Tag.kind.labels_of([Row(words=["a", "b"], tags=tags)])
    with pytest.raises(DataError, match="right column"):
        Tag.kind.labels_of([Row(words=["a"] * 1001, tags=[str(i) for i in range(1001)])])


@pytest.mark.parametrize("tag", ["0", "b-film", "M-film", "domain=en"])
def test_one_strange_tag_among_those_of_entities(tag):
    """It would make words of all entities, and accuracy of their F1."""
    rows = [Row(words=["a", "b"], tags=["B-film", "O"]), Row(words=["c"], tags=[tag], where="a.conll, line 4")]
    with pytest.raises(DataError, match=f"a.conll, line 4: the tag '{tag}' is neither O nor B-"):
        Tag.kind.labels_of(rows)
    with pytest.raises(DataError, match="the tag 'b-film' is neither"):
        Tag.kind.labels_of([Row(words=["a", "b", "c"], tags=["b-film", "i-film", "o"])])
    rows[0]["tags"] = ["X-film", "N"]
    assert Tag.kind.labels_of(rows) == tuple(sorted({"X-film", "N", tag}))


def test_tags_that_mark_no_entities(folder):
    labels = ("ADJ", "NOUN", "VERB")
    model, task = model_and_task(folder("bert"), labels)
    rows = [Row(words=["a", "film"], tags=["ADJ", "NOUN"])]
    answers = predict(model.transformer, task, rows, batch_size=1)
    assert answers[0].entities == []
    scores = task.score(answers, rows)
    assert scores["f1"] == scores["accuracy"]


def test_a_word_without_tokens_is_outside(folder):
    model, task = model_and_task(folder("bert"))
    with torch.no_grad():
        model.transformer.head.cls.bias[LABELS.index("B-loc")] = 100.0
    rows = [Row(words=["film", "\x00", "film"]), Row(words=["\x00"]), Row(words=["a"])]
    answers = predict(model.transformer, task, rows, batch_size=2)
    assert [answer.tags for answer in answers] == [["B-loc", "O", "B-loc"], ["O"], ["B-loc"]]
    row = Row(words=["film", "\x00", "film"], tags=["B-loc", "O", "I-loc"])
    assert task.count(task.collate(task.encode([row]))) == 2
    assert task.encode([Row(words=["\x00"], tags=["O"])]) == []  # a batch of it alone would be divided by zero


def test_a_word_longer_than_a_window_is_cut_and_counted(folder):
    model, task = model_and_task(folder("bert"), max_length=12)
    model.tokenizer.truncation_side = "left"  # the first token has the label, and stays
    row = Row(words=["a", "z" * 60, "film"], tags=["O", "B-loc", "O"])
    examples = task.encode([row])
    alone = encode_words(model.tokenizer, [[row["words"][1]]])[0]
    assert [example.lost for example in examples] == [0, len(alone.ids) - 12, 0]
    assert examples[1].inputs["input_ids"] == [*alone.ids[:11], alone.ids[-1]]
    assert task.count(task.collate(examples)) == 3
    with pytest.warns(UserWarning, match="1 of 2 inputs are longer"):
        predict(model.transformer, task, [row, Row(words=["a"])], batch_size=2)
    with pytest.raises(TokenizerError, match="leave no room"):
        Tag(model.tokenizer, LABELS, 2).encode([row])


def test_padding_is_on_the_right(folder):
    model, task = model_and_task(folder("gpt2"))
    model.tokenizer.padding_side = "left"
    batch = task.collate(task.encode(ROWS))
    assert batch["attention_mask"][:, 0].all()
    assert (batch["labels"][batch["attention_mask"] == 0] == -100).all()
    assert (batch["labels"] != -100).sum() == sum(len(row["words"]) for row in ROWS)


def test_words_of_a_text():
    text = "John's EU-wide (U.S.) 3.5 or 1,000 cats,dogs @you e\u0301te\u0301"
    words, places = find_words(text)
    expected = "John's EU-wide ( U . S . ) 3.5 or 1,000 cats , dogs @ you e\u0301te\u0301"
    assert words == expected.split()
    assert [text[start:end] for start, end in places] == words
    assert find_words("हिन्दी भाषा है।")[0] == ["हिन्दी", "भाषा", "है", "।"]
    assert find_words("我在IBM工作。")[0] == ["我", "在", "IBM", "工", "作", "。"]
    assert find_words(" \n") == ([], [])


@given(st.text(max_size=60))
def test_the_words_of_a_text_are_all_of_it_but_spaces(text):
    try:
        words, places = find_words(text)
    except TokenizerError:
        assert any("\ud800" <= character <= "\udfff" for character in text)
        return
    assert [text[start:end] for start, end in places] == words
    rest = "".join(text[a[1] : b[0]] for a, b in zip([(0, 0), *places], [*places, (len(text), 0)], strict=True))
    assert not rest.strip()


def test_what_predict_takes(folder):
    model, task = model_and_task(folder("bert"))
    text = "A film, twice."
    found = predict(
        model.transformer, task, [task.row(text), task.row(["A", "film"]), task.row({"words": ["a"]})], batch_size=2
    )
    assert [answer.words for answer in found] == [["A", "film", ",", "twice", "."], ["A", "film"], ["a"]]
    for entity in found[0].entities:
        assert text[entity.start : entity.end] == entity.text
    assert all(entity.start is None for entity in found[1].entities)
    assert task.row(ROWS[0]) is ROWS[0]
    with pytest.raises(InputError, match="a list of words"):
        task.row(5)
    for wrong in (task.row(" "), task.row([]), task.row({"text": "a"}), task.row(["a", 5]), task.row({"words": "a b"})):
        with pytest.raises(DataError, match="expected a list of texts"):
            task.encode([wrong], targets=False)
    with pytest.raises(DataError, match="no Unicode text"):
        task.encode([task.row(["\ud800"])], targets=False)


def test_an_entity_takes_its_words_scores(folder):
    _, task = model_and_task(folder("bert"))
    row = Row(words=["New", "York", "x"])
    [example] = task.encode([row], targets=False)
    tokens = {0: ("B-loc", 0.8), 1: ("I-loc", 0.6), 2: ("O", 0.9)}
    decoded = [tokens.get(word, ("B-per", 1.0)) for word in example.inputs["words"]]
    [answer] = task.answers([row], [example], [decoded])
    assert answer.entities == [Entity("loc", "New York", 0, 2, pytest.approx(0.7))]
    row["text"] = "another column"
    assert task.answers([row], [example], [decoded]) == [answer]


def test_wrong_rows_are_named(folder, tmp_path):
    _, task = model_and_task(folder("bert"))
    wrong = {
        "2 words and 1 tags": {"words": ["a", "b"], "tags": ["O"]},
        "'tags' is not among the columns words": {"words": ["a"]},
        "unknown label 'B-nowhere'": {"words": ["a"], "tags": ["B-nowhere"]},
        "'words' is not among the columns text": {"text": "a"},
    }
    for message, columns in wrong.items():
        with pytest.raises(DataError, match=f"x.conll, line 7: {message}"):
            task.encode([Row(columns, where="x.conll, line 7")])
    with pytest.raises(InputError, match="stride"):
        Tag(task.tokenizer, LABELS, None, stride=-1)
    translator = mt.load(marian(tmp_path / "marian")).tokenizer
    with pytest.raises(TokenizerError, match="another model"):
        Tag(translator, LABELS, None).encode(ROWS)


def sentences_of(path):
    """The sentences of a file with a word and its tag on each line, and a line without either between sentences."""
    blocks = path.read_text("utf-8").replace("\n\t\n", "\n\n").strip("\n\t").split("\n\n")
    pairs = [[line.split("\t") for line in block.split("\n") if line.strip()] for block in blocks]
    return [Row(words=[pair[0] for pair in block], tags=[pair[1] for pair in block]) for block in pairs if block]


@pytest.mark.skipif("MINITRANSFORMER_DATA" not in os.environ, reason="MINITRANSFORMER_DATA is not set")
def test_no_word_of_wnut17_is_lost(folder):
    data = Path(os.environ["MINITRANSFORMER_DATA"]) / "wnut17"
    train, dev = sentences_of(data / "train.conll"), sentences_of(data / "dev.conll")
    assert (len(train), len(dev)) == (3394, 1009)
    labels = Tag.kind.labels_of(train)
    kinds = ["corporation", "creative-work", "group", "location", "person", "product"]
    assert labels == ("O", *(f"{prefix}-{kind}" for kind in kinds for prefix in "BI"))
    task = Tag(mt.load(folder("bert")).tokenizer, labels, 24)
    whole = {word for row in dev for word in row["words"] if not encode_words(task.tokenizer, [[word]])[0].ids[1:-1]}
    examples = task.encode(dev)
    judged = sum(word >= 0 for example in examples for word in example.inputs["words"])
    words = sum(word not in whole for row in dev for word in row["words"])
    assert judged == words
    assert len(examples) > len(dev)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        answers = task.answers(dev, examples, [[("O", 1.0)] * len(example) for example in examples])
    assert task.score(answers, dev)["f1"] == 0
