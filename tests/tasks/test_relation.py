"""Relations of two marked entities: the tokens that mark them, what is cut of long texts, and that it learns."""

import re

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from small_readers import reader

import minitransformer as mt
from minitransformer.errors import DataError, InputError, TokenizerError
from minitransformer.tasks.inference import inference, predict
from minitransformer.tasks.relation import Relation, entities_of, marked
from minitransformer.tasks.task import Row

FAMILIES = ["bert", "roberta", "gpt2", "albert", "t5", "bart"]
TEXT = "The <e1>new film</e1> was made by her <e2>brother</e2> of late."
LABELS = ("made(e1,e2)", "made(e2,e1)")


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """loaded("bert"): a small model of that family, with the tokens that mark entities; made anew, from one folder."""
    folders = {}

    def loaded(family, labels=LABELS, max_length=None):
        if family not in folders:
            folders[family] = reader(tmp_path_factory.mktemp(family), family)
        torch.manual_seed(0)
        model = mt.load(folders[family], head="sequence-classification", labels=labels)
        model.add_tokens(Relation.kind.added_tokens)
        return model, Relation(model.tokenizer, labels, max_length)

    return loaded


def tokens_of(task, *rows):
    """The tokens of each row, without special ones but for the markers."""
    tokenizer = task.tokenizer
    usual = {tokenizer.backend.token_to_id(token) for token in tokenizer.special.values()}
    examples = task.encode([row if isinstance(row, Row) else Row(text=row) for row in rows], targets=False)
    return [
        tokenizer.convert_ids_to_tokens([i for i in example.inputs["input_ids"] if i not in usual])
        for example in examples
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_without_its_markers_a_text_has_the_tokens_it_had(loaded, family):
    _, task = loaded(family)
    plain = re.sub("<.*?>", "", TEXT)
    expected = task.tokenizer.tokens(plain, add_special_tokens=False)
    [found] = tokens_of(task, TEXT)
    assert [token for token in found if token not in Relation.kind.added_tokens] == expected
    assert [token for token in found if token in Relation.kind.added_tokens] == list(Relation.kind.added_tokens)
    inside = found[found.index("[E1]") + 1 : found.index("[/E1]")]
    assert inside == task.tokenizer.tokens("The new film", add_special_tokens=False)[-len(inside) :]


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_all_ways_to_mark_are_one(loaded, family):
    _, task = loaded(family)
    plain = re.sub("<.*?>", "", TEXT)
    head, tail = ([plain.index(part), plain.index(part) + len(part)] for part in ("new film", "brother"))
    ways = [
        TEXT,
        TEXT.replace("<e", "[E").replace("</e", "[/E").replace(">", "]"),
        "The [E1] new film [/E1] was made by her [E2] brother [/E2] of late.",
        "The<e1> new film</e1> was made by her<e2> brother</e2> of late.",
        Row(text=plain, head=head, tail=tail),
        Row(text=plain, head=tuple(head), tail=tuple(tail)),
    ]
    first, *others = tokens_of(task, *ways)
    assert others == [first] * 5
    swapped = Row(text=plain, head=tail, tail=head)
    [turned] = tokens_of(task, swapped)
    assert turned == [token.translate(str.maketrans("12", "21")) if "E" in token[1:3] else token for token in first]


def test_spans_and_markers():
    text, head, tail = entities_of(Row(text="<e2> a b </e2><e1>c</e1>"))
    assert (text, text[slice(*head)], text[slice(*tail)]) == (" a b c", "c", "a b")
    assert marked("x a b c", (2, 5), (6, 7)) == "x[E1] a b[/E1][E2] c[/E2]"
    assert marked("abc", (0, 1), (1, 3)) == "[E1]a[/E1][E2]bc[/E2]"
    assert marked("a b, c", (5, 6), (2, 3)) == "a[E2] b[/E2],[E1] c[/E1]"


WRONG = {
    "no markers": "got the markers none",
    "<e1>a</e1> b": "got the markers <e1> </e1>; expected",
    "<e1>a</e1> <e2>b": "got the markers <e1> </e1> <e2>; expected",
    "<e1>a</e1> <e1>b</e1> <e2>c</e2>": "got the markers",
    "<e1>a <e2>b</e1> c</e2>": "got the markers <e1> <e2> </e1> </e2>",
    "<e1>a <e2>b</e2> c</e1>": "got the markers",
    "</e1>a<e1> <e2>b</e2>": "got the markers",
    "<e1> </e1> <e2>b</e2>": "an entity is ' ', expected a text",
    "<e1></e1> <e2>b</e2>": "an entity is ''",
    "": "'text' is '', expected a text",
}
WRONG_SPANS = {
    "'tail' is None": {"head": [0, 1]},
    "'head' is '0 1'": {"head": "0 1", "tail": [2, 3]},
    r"'head' is \[0\]": {"head": [0], "tail": [2, 3]},
    r"'head' is \[True, 2\]": {"head": [True, 2], "tail": [2, 3]},
    r"'tail' is \[2, 99\], expected a part of the text's 10 characters": {"head": [0, 1], "tail": [2, 99]},
    r"'head' is \[-1, 1\]": {"head": [-1, 1], "tail": [2, 3]},
    r"'head' is \[1, 1\]": {"head": [1, 1], "tail": [2, 3]},
    "the entities overlap: 'some', 'me'": {"head": [0, 4], "tail": [2, 4]},
    "an entity is ' '": {"head": [0, 4], "tail": [4, 5]},
}


def test_markers_come_before_columns_that_happen_to_be_called_so():
    row = Row(text="<e1>Ada</e1> was born in <e2>London</e2>.", head="Ada", tail="London")
    text, head, tail = entities_of(row)
    assert (text[slice(*head)], text[slice(*tail)]) == ("Ada", "London")


def test_wrong_rows_are_named(loaded, tmp_path):
    _, task = loaded("bert")
    for text, message in WRONG.items():
        with pytest.raises(DataError, match=f"r.tsv, line 3: {message}"):
            task.encode([Row(text=text, label=LABELS[0], where="r.tsv, line 3")])
    for message, columns in WRONG_SPANS.items():
        with pytest.raises(DataError, match=f"r.tsv, line 3: {message}"):
            task.encode([Row(columns, text="some words", where="r.tsv, line 3")], targets=False)
    with pytest.raises(DataError, match="unknown label 'x'"):
        task.encode([Row(text=TEXT, label="x")])
    with pytest.raises(DataError, match=r"\[E1\] stands there 2 times"):
        task.encode([Row(text="[E1] words", head=[0, 4], tail=[5, 10])], targets=False)
    for given_ in (("a", "b"), 5, ["a"]):
        with pytest.raises(InputError, match="a text with <e1>"):
            task.row(given_)
    plain = mt.load(reader(tmp_path / "plain", "bert")).tokenizer
    with pytest.raises(TokenizerError, match="add_tokens"):
        Relation(plain, LABELS, None)
    assert task.encode([]) == []


@given(
    st.integers(0, 30), st.integers(1, 4), st.integers(0, 30), st.integers(1, 4), st.integers(0, 30), st.integers(8, 40)
)
def test_what_is_cut_is_never_a_marker(loaded, before, first, between, second, after, limit):
    _, task = loaded("bert")
    _limit(task, limit)
    words = [f"{i % 10}" for i in range(before + first + between + second + after)]
    words.insert(before + first + between + second, "</e2>")
    words.insert(before + first + between, "<e2>")
    words.insert(before + first, "</e1>")
    words.insert(before, "<e1>")
    row = Row(text=" ".join(words), where="row 1")
    if first + second + 6 > limit:
        with pytest.raises(DataError, match=f"row 1: its two entities alone have more than the {limit} tokens"):
            task.encode([row], targets=False)
        return
    [example] = task.encode([row], targets=False)
    total = len(words) + 2
    assert (len(example), example.lost) == (min(total, limit), max(0, total - limit))
    tokens = task.tokenizer.convert_ids_to_tokens(example.inputs["input_ids"])
    assert (tokens[0], tokens[-1]) == ("[CLS]", "[SEP]")
    start, first_end, second_start, end = (tokens.index(marker) for marker in Relation.kind.added_tokens)
    assert start < first_end < second_start < end
    assert (first_end - start - 1, end - second_start - 1) == (first, second)
    left, middle, right = start - 1, second_start - first_end - 1, len(tokens) - end - 2
    if middle < between:  # what stands around goes first
        assert left == right == 0
    assert (left == before and left <= right + 1) or (right == after and right <= left + 1) or abs(left - right) <= 1


def _limit(task, limit):
    task.max_length = limit


def test_the_text_next_to_the_entities_stays(loaded):
    _, task = loaded("bert", max_length=12)
    [found] = tokens_of(task, "a b c <e1>d</e1> e f <e2>g</e2> h i j")
    assert found == ["c", "[E1]", "d", "[/E1]", "e", "f", "[E2]", "g", "[/E2]", "h"]
    [found] = tokens_of(task, "a <e1>d</e1> e f g h i <e2>j</e2> k")
    assert found == ["[E1]", "d", "[/E1]", "e", "f", "h", "i", "[E2]", "j", "[/E2]"]
    model, task = loaded("bert", max_length=12)
    with pytest.warns(UserWarning, match="1 of 2 inputs are longer"):
        predict(model.transformer, task, [task.row(TEXT), task.row("<e1>a</e1> <e2>b</e2>")], batch_size=2)


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_sixteen_rows_are_learned_by_heart(loaded, family):
    """Only who made what tells the labels apart: the same words, marked the other way round."""
    rows = []
    for i in range(8):
        first, second = f"film {i}", f"brother {i}"
        rows.append(Row(text=f"A <e1>{first}</e1> of her <e2>{second}</e2>.", label=LABELS[0]))
        rows.append(Row(text=f"A <e2>{first}</e2> of her <e1>{second}</e1>.", label=LABELS[1]))
    labels = Relation.kind.labels_of(rows)
    assert labels == LABELS
    model, task = loaded(family, labels)
    batch = task.collate(task.encode(rows))
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=3e-3)
    for _ in range(80):
        total, count = task.loss(model.transformer, batch)
        optimizer.zero_grad()
        (total / count).backward()
        optimizer.step()
    with inference(model.transformer):
        total, count = task.loss(model.transformer, batch)
    assert count == task.count(batch) == 16
    assert total / count < 1e-2
    given_ = "A <e2>film 3</e2> of her <e1>brother 3</e1>."
    [answer] = predict(model.transformer, task, [task.row(given_)], batch_size=1)
    assert (answer.text, answer.label) == (given_, LABELS[1])
    answers = predict(model.transformer, task, rows, batch_size=3)
    assert task.score(answers, rows)[task.kind.metric] == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_loss_is_that_of_transformers_on_the_saved_folder(loaded, family, tmp_path):
    model, task = loaded(family)
    rows = [Row(text=TEXT, label=LABELS[0]), Row(text="<e2>x</e2>, her <e1>film</e1>", label=LABELS[1])]
    model.eval().save(tmp_path)
    cls = transformers.AutoModelForSequenceClassification
    theirs = cls.from_pretrained(tmp_path, attn_implementation="eager").eval()
    batch = task.collate(task.encode(rows))
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    texts = ["The[E1] new film[/E1] was made by her[E2] brother[/E2] of late.", "[E2]x[/E2], her[E1] film[/E1]"]
    expected = tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
    assert torch.equal(expected["input_ids"], batch["input_ids"])
    total, count = task.loss(model.transformer, batch)
    torch.testing.assert_close(total / count, theirs(**expected, labels=batch["labels"]).loss, atol=1e-5, rtol=1e-5)
    assert Relation(mt.load(tmp_path).tokenizer, LABELS, None).encode(rows) == task.encode(rows)
