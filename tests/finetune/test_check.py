"""What a check says of rows: counts made by hand or with transformers' tokenizer, bytes as torch has them."""

import json
import re
import string

import pytest
import torch
import transformers
from small_runs import begin, same, weights
from small_writers import CHATML, gpt2, gpt2_tokenizer, t5

import minitransformer as mt
from minitransformer.errors import DataError, NotFoundError
from minitransformer.finetune.check.cost import cost, saved, untouched
from minitransformer.finetune.check.inspect import inspect_rows
from minitransformer.finetune.data import splits
from minitransformer.finetune.optimizers import make_optimizer
from minitransformer.finetune.recipe import Recipe
from minitransformer.finetune.rows.documents import cut_document
from minitransformer.tasks import Row

WORDS = ["a", "the", "film", "plot", "was", "not", "very", "good", "bad", "awful", "what", "made", "it", "in", "time"]
TRAIN = ["good film", "bad film", "good plot", "bad plot", "a good film", "not bad"]
LABELS = ["plus", "minus", "plus", "minus", "plus", "minus"]


def table(path, *rows):
    path.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows))
    return path


@pytest.fixture
def train(tmp_path):
    return table(tmp_path / "train.csv", *zip(TRAIN, LABELS, strict=True))


@pytest.fixture(scope="module")
def speller(tmp_path_factory):
    """A BERT that knows some words, and spells the others."""
    folder = tmp_path_factory.mktemp("speller")
    letters = [*string.ascii_lowercase, *string.digits, "."]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *letters[1:], *(f"##{x}" for x in letters)]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    transformers.BertModel(transformers.BertConfig(vocab_size=len(words), **sizes)).save_pretrained(folder)
    return folder


def whats(findings):
    return {found.what: found.count for found in findings}


def test_good_rows_are_usable(small_bert, train):
    report = inspect_rows(small_bert, "classify", train, dev=2, recipe=Recipe(epochs=2, batch_size=2))
    assert report.usable
    assert report.labels == ("minus", "plus")
    assert {name: part.rows for name, part in report.parts.items()} == {"train": 4, "dev": 2}
    assert report.parts["train"].labels == {"plus": 2, "minus": 2}
    assert report.parts["train"].source == "train.csv"
    assert report.parts["dev"].source == "split off from train by seed 0"
    assert report.cost.steps == 4
    assert report.to_dict()["usable"] is True
    assert json.loads(json.dumps(report.to_dict()))["parts"]["train"]["columns"] == ["text", "label"]


def test_everything_wrong_is_counted_and_named_not_only_the_first(small_bert, train, tmp_path):
    dev = table(tmp_path / "dev.csv", ("good", "plus"), ("bad", "sad"), ("", "plus"), ("plot", "sad"), ("fine", ""))
    report = inspect_rows(small_bert, "classify", train, dev=dev)
    assert not report.usable
    found = {re.sub("'text' is .*|'label' is .*", lambda m: m[0][:6], each.what): each for each in report.stops}
    strange = found["unknown label 'sad', expected one of minus, plus"]
    assert (strange.count, strange.places) == (2, (f"{dev}, line 3", f"{dev}, line 5"))
    assert found["'text'"].places == (f"{dev}, line 4",)
    assert found["'label"].places == (f"{dev}, line 6",)
    assert len(found) == 3
    assert report.parts["dev"].rows == 5
    assert report.parts["dev"].lengths.windows == 1  # what is left is looked at all the same
    with pytest.raises(DataError, match=r"dev\.csv, line [346]"):
        mt.finetune(small_bert, "classify", train, dev=dev, out=tmp_path / "out")


def test_rows_behind_one_that_is_wrong_keep_their_places(small_bert, tmp_path):
    texts = ["good", "", "bad film", "unheard", "good plot", "bad"]
    path = table(tmp_path / "rows.csv", *zip(texts, LABELS, strict=True))
    report = inspect_rows(small_bert, "classify", path, dev=0, recipe=Recipe(max_length=3))
    assert report.stops[0].places == (f"{path}, line 3",)
    assert report.remarks[0].places == (f"{path}, line 5",)  # unknown tokens alone
    assert [example.where[-1] for example in report.examples] == ["2", "5", "4"]
    assert report.parts["train"].lengths.rows_cut == 2


def test_one_class_stops_a_run_and_the_rest_is_told(small_bert, tmp_path):
    rows = table(tmp_path / "rows.csv", *((text, "same") for text in TRAIN), ("good film", "same"))
    report = inspect_rows(small_bert, "classify", rows, dev=0)
    assert not report.usable
    assert "all 7 rows have the label 'same'" in str(report)
    assert report.remarks[0].count == 1
    assert report.cost is None
    assert report.parts["train"].labels == {"same": 7}
    unlabelled = table(tmp_path / "none.csv", ("good", ""), ("bad", ""))
    assert inspect_rows(small_bert, "classify", unlabelled, dev=0).stops[0].count == 2


def test_what_makes_reading_impossible_is_an_error(small_bert, train, tmp_path):
    with pytest.raises(DataError, match="no column 'review'"):
        inspect_rows(small_bert, "classify", train, columns={"text": "review"})
    with pytest.raises(NotFoundError):
        inspect_rows(small_bert, "classify", tmp_path / "nowhere.csv")


def test_repeated_rows_within_and_across_splits(small_bert, train, tmp_path):
    dev = table(tmp_path / "dev.csv", ("good film", "plus"), ("very", "plus"), ("very", "plus"), ("not bad", "plus"))
    report = inspect_rows(small_bert, "classify", train, dev=dev, test=table(tmp_path / "test.csv", ("very", "minus")))
    found = {each.what: each for each in report.remarks}
    across = found["row of dev is in train, too"]
    assert (across.count, across.places[0]) == (2, f"{dev}, line 2 = {train}, line 2")
    assert found["row of dev repeats an earlier one"].places == (f"{dev}, line 4 = line 3",)
    assert found["row of test is in dev, too"].count == 1
    assert found["input that has two different 'label': a contradiction"].count == 2  # "not bad" and "very"
    assert found["label that does not occur in dev: minus"].count == 1
    assert report.usable
    assert report.baseline == "always 'plus' is right for 100.0% of the rows of dev"


def test_a_pair_is_repeated_if_both_texts_are(small_bert):
    rows = [Row(text="good", pair="film", label="a"), Row(text="good", pair="plot", label="b")] * 3
    report = inspect_rows(small_bert, "classify", rows[:4], dev=rows[4:])
    assert whats(report.remarks) == {"row of train repeats an earlier one": 2, "row of dev is in train, too": 2}


def test_lengths_are_those_of_transformers_tokenizer(speller, tmp_path):
    texts = ["a good film", "what", "dull and awful plot", "unbelievable", "it was not made in time"] * 5
    rows = [Row(text=text + "x" * number, label=str(number % 2)) for number, text in enumerate(texts)]
    report = inspect_rows(speller, "classify", rows, dev=0, recipe=Recipe(max_length=12, batch_size=4))
    tokenizer = transformers.AutoTokenizer.from_pretrained(speller)
    sizes = sorted(len(tokenizer(row["text"])["input_ids"]) for row in rows)
    found = report.parts["train"].lengths
    assert (found.tokens, found.longest) == (sum(sizes), sizes[-1])
    assert found.mean == pytest.approx(sum(sizes) / 25)
    assert found.percentile_95 == sizes[23]  # 24 of 25 are 96 %
    assert found.rows_cut == sum(size > 12 for size in sizes) > 0
    assert found.tokens_lost == sum(max(0, size - 12) for size in sizes)
    assert (report.max_length, report.full_length) == (12, sizes[-1])
    assert f"max_length 12; with {sizes[-1]}, every row would be read at once" in str(report)
    again = inspect_rows(speller, "classify", rows, dev=0, recipe=Recipe(max_length=sizes[-1], batch_size=4))
    assert again.parts["train"].lengths.tokens_lost == 0


def test_the_model_reads_so_many_tokens_and_no_more(small_bert):
    rows = [Row(text="good " * 40, label="a"), Row(text="bad", label="b")] * 2
    report = inspect_rows(small_bert, "classify", rows, dev=0, recipe=Recipe(max_length=20))
    assert (report.max_length, report.highest_length, report.full_length) == (20, 32, 42)
    assert "max_length 20, 32 at most with this model and task; the longest row has 42" in str(report)
    assert report.parts["train"].lengths.tokens_lost == 2 * 22


def test_unknown_tokens(small_bert):
    rows = [Row(text="good unheard", label="a"), Row(text="unheard of", label="b"), Row(text="bad film", label="a")] * 2
    report = inspect_rows(small_bert, "classify", rows, dev=0)
    assert report.parts["train"].lengths.unknown == 6
    assert whats(report.remarks)["row of train with unknown tokens alone"] == 2


def test_a_word_that_no_window_holds_is_a_label_lost(speller):
    rows = [
        Row(words=["good", "film", "by", "x"], tags=["O", "O", "O", "B-a"]),
        Row(words=["in", "\u200b", "time"], tags=["O", "B-a", "I-a"]),  # a word without a token
    ] * 2
    report = inspect_rows(speller, "tag", rows, dev=0, recipe=Recipe(max_length=4, stride=0))
    found = report.parts["train"].lengths
    assert (found.judged, found.judged_lost) == (14, 2)
    assert found.windows > 4
    assert report.judged == "words"
    first = report.examples[0]
    assert first.tokens[:2] == ("[CLS]", "good")
    assert first.labels[:2] == (None, "O")
    assert "film→O" in str(report)
    assert report.parts["train"].labels == {"O": 8, "B-a": 4, "I-a": 2}


def test_answers_outside_every_window(speller):
    context = "the film was not good"
    answers = {
        "good": [{"text": "good", "answer_start": 17}],
        "all": [{"text": context, "answer_start": 0}],
        "none": [],
    }
    rows = [Row(question="what", context=context, answers=answer) for answer in answers.values()]
    report = inspect_rows(speller, "span", rows, dev=0, recipe=Recipe(max_length=7, stride=1))
    found = report.parts["train"].lengths  # [CLS] what [SEP] and [SEP] leave room for three words
    assert (found.judged, found.judged_lost, found.windows) == (2, 1, 6)
    assert [example.target for example in report.examples] == [
        "tokens 5 to 5, 'good'",
        *["no answer in this window"] * 2,
    ]
    assert report.baseline == "always no answer is right for 33.3% of the rows of train"


def test_targets_that_are_cut(tmp_path):
    folder = t5(tmp_path / "t5")
    rows = [Row(source="a film", target="good"), Row(source="a plot", target="a very very bad film")] * 3
    report = inspect_rows(folder, "translate", rows, dev=0, recipe=Recipe(max_target_length=6))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    sizes = [len(tokenizer(row["target"])["input_ids"]) for row in rows]
    found = report.parts["train"].lengths
    assert (found.longest_target, found.judged) == (max(sizes), sum(sizes))
    assert found.judged_lost == found.tokens_lost == sum(max(0, size - 6) for size in sizes) > 0
    assert report.examples[0].target.startswith("write ")
    assert report.examples[0].target.endswith("</s>")


def test_only_answers_of_a_conversation_are_judged(tmp_path):
    folder = gpt2(tmp_path / "gpt", tokenizer=gpt2_tokenizer(chat_template=CHATML))
    messages = [{"role": "user", "content": "what"}, {"role": "assistant", "content": "no film"}]
    report = inspect_rows(folder, "dialogue", [Row(messages=messages)] * 2, dev=0)
    (example, _) = report.examples
    judged = "".join(label for label in example.labels if label is not None)
    assert "nofilm<|end|>" in judged.replace("Ġ", "")
    assert "what" not in judged
    assert "(w" in str(report)


def test_a_masked_token_shows_what_it_was(speller):
    report = inspect_rows(speller, "mlm", [Row(text="the film was not very good")] * 8, dev=0)
    hidden = [
        (token, label)
        for example in report.examples
        for token, label in zip(example.tokens, example.labels, strict=True)
        if label is not None
    ]
    words = {"the", "film", "was", "not", "very", "good"}
    assert hidden
    assert {label for _, label in hidden} <= words
    assert report.parts["train"].lengths.judged == 48
    assert report.parts["train"].lengths.judged_lost == 0


@pytest.mark.parametrize(
    ("task", "row", "told"),
    [
        ("regress", {"text": "good", "label": 1.5}, "number 1.5"),
        ("multilabel", {"text": "good", "labels": ["a", "c"]}, "labels 0 = a, 2 = c"),
        ("choice", {"prompt": "what", "choices": ["bad", "good"], "label": 1}, "choice 1: the right one"),
        ("relation", {"text": "<e1>film</e1> was <e2>good</e2>", "label": "a"}, "label 0 = a"),
    ],
)
def test_the_target_of_each_task_is_read_back(task, row, told, speller):
    other = {"label": 0.5, "labels": ["b"]} if task in ("regress", "multilabel") else {"label": "b"}
    other = {"label": 0} if task == "choice" else other
    rows = [Row({**row, **changed}) for changed in ({}, {k: v for k, v in other.items() if k in row})] * 2
    assert told in str(inspect_rows(speller, task, rows, dev=0))


def test_rows_of_several_choices_that_do_not_go_together(speller):
    rows = [Row(prompt="what", choices=["a", "film"], label=0), Row(prompt="what", choices=["a"], label=0)]
    assert not inspect_rows(speller, "choice", rows, dev=0).usable


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "adafactor"])
@pytest.mark.parametrize("train", ["all", "head", "lora"])
def test_bytes_are_those_that_torch_holds_after_a_step(small_bert, rows, optimizer, train):
    model, task, examples, recipe = begin(small_bert, rows, optimizer=optimizer, train=train, batch_size=8)
    found = cost(model, task, examples, recipe)
    stepper = make_optimizer(model, recipe)
    total, _ = task.loss(model, task.collate(examples[:8]))
    total.backward()
    stepper.step()
    parameters = list(model.parameters())
    assert found.parameters == sum(x.numel() for x in parameters)
    assert found.training == sum(x.numel() for x in parameters if x.requires_grad)
    assert found.gradients == sum(x.grad.nbytes for x in parameters if x.grad is not None)
    held = [x for state in stepper.state.values() for x in state.values() if isinstance(x, torch.Tensor)]
    assert found.moments == sum(x.nbytes for x in held)
    assert found.weights == sum(x.nbytes for x in [*parameters, *model.buffers()])


def test_activations_are_what_a_forward_pass_keeps(calm_bert, rows):
    model, task, examples, recipe = begin(calm_bert, rows, batch_size=8)
    batch = task.collate(examples[:4])
    with torch.profiler.profile(profile_memory=True) as profile:
        model.train()
        loss = task.loss(model, batch)[0]
    kept = sum(event.self_cpu_memory_usage for event in profile.events())
    del loss
    with untouched(model, {name for name, _ in model.named_parameters()}):
        assert saved(model, task, examples[:4], recipe) == pytest.approx(kept, rel=0.1)


def test_activations_grow_with_the_rows_computed_at_once(calm_bert, rows):
    def of(**recipe):
        return cost(*begin(calm_bert, rows, **recipe))

    whole, part = of(batch_size=32), of(batch_size=32, micro_batch_size=8)
    assert (whole.batch_rows, part.batch_rows) == (32, 8)
    assert part.batch_tokens == max(len(row["text"].split()) for row in rows) + 2
    assert whole.activations / part.activations == pytest.approx(
        32 * whole.batch_tokens / (8 * part.batch_tokens), rel=0.1
    )
    assert of(batch_size=32, recompute=True).activations < whole.activations
    assert (whole.steps, whole.seconds) == (12, pytest.approx(12 * whole.seconds_per_step))


def test_the_model_is_left_as_it_was(small_bert, rows):
    model, task, examples, recipe = begin(small_bert, rows, train="top:1", batch_size=8)
    model.eval()
    before, trains = weights(model), [x.requires_grad for x in model.parameters()]
    state = torch.random.get_rng_state()
    cost(model, task, examples, recipe)
    assert same(before, weights(model))
    assert [x.requires_grad for x in model.parameters()] == trains
    assert all(x.grad is None for x in model.parameters())
    assert not any(module.training for module in model.modules())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_text_of_rows_cannot_draw_on_the_terminal(small_bert):
    rows = [Row(text="good", label="a\x1b[2J\nb"), Row(text="bad", label="c")] * 2
    report = str(inspect_rows(small_bert, "classify", rows, dev=0))
    assert "\x1b" not in report
    assert "a [2J b" in report


DOCUMENT = "".join(f"line {number} of a text\n" for number in range(100))


def test_a_document_is_cut_where_lines_end():
    parts = cut_document(Row(text=DOCUMENT, where="a.txt"), dev=0.1, test=0.2)
    texts = [part[0]["text"] for part in parts]
    assert "".join(texts) == DOCUMENT
    assert all(text.endswith("\n") and text.startswith("line") for text in texts)
    assert [len(text) / len(DOCUMENT) for text in texts] == pytest.approx([0.7, 0.1, 0.2], abs=0.01)
    assert parts[1][0].where == f"a.txt, characters {len(texts[0]) + 1:,} to {len(texts[0]) + len(texts[1]):,}"


def test_a_document_without_lines_is_cut_between_characters():
    text = "".join(map(str, range(1000)))  # 2,890 characters
    train, dev, test = cut_document(Row(text=text), dev=0.25, test=0.0)
    assert (len(train[0]["text"]), len(dev[0]["text"]), test) == (2168, 722, [])
    assert train[0]["text"] + dev[0]["text"] == text


def test_a_document_ends_with_test_and_nothing_is_taken_that_was_not_asked_for():
    _, dev, test = cut_document(Row(text=DOCUMENT + "the end"), dev=0.1, test=0)
    assert test == []
    assert dev[0]["text"].endswith("the end")
    with pytest.raises(DataError, match="leave nothing to train on"):
        cut_document(Row(text=DOCUMENT), dev=0.5, test=0.5)
    with pytest.raises(DataError, match="too short"):
        cut_document(Row(text="ab"), dev=0.1, test=0)


@pytest.mark.parametrize("task", ["lm", "mlm"])
def test_splits_of_one_document(task, tmp_path):
    (tmp_path / "a.txt").write_text(DOCUMENT)
    options = {"columns": None, "seed": 0}
    found = splits(task, tmp_path / "a.txt", dev=0.1, test=None, **options)
    assert found.train[0]["text"] + found.dev[0]["text"] == DOCUMENT
    assert found.test == []
    (tmp_path / "b.txt").write_text("another")
    both = splits(task, [tmp_path / "a.txt", tmp_path / "b.txt"], dev=1, test=None, **options)
    assert len(both.train) == len(both.dev) == 1
    with pytest.raises(DataError, match="cannot split 1 rows"):
        splits(task, tmp_path / "a.txt", dev=5, test=None, **options)


def test_a_language_model_learns_from_one_document_by_default(tmp_path):
    folder = gpt2(tmp_path / "gpt")
    (tmp_path / "a.txt").write_text(DOCUMENT)
    report = inspect_rows(folder, "lm", tmp_path / "a.txt")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert report.parts["train"].lengths.judged == len(tokenizer(report_text(tmp_path))["input_ids"])  # and the end
    assert report.parts["train"].lengths.judged_lost == 0
    assert report.examples[0].labels[0] is None
    assert report.examples[0].labels[1:] == report.examples[0].tokens[1:]
    run = mt.finetune(folder, "lm", tmp_path / "a.txt", out=tmp_path / "run", steps=1, batch_size=2)
    assert run.rows == {"train": 1, "dev": 1, "test": 0}
    assert run.metrics["dev"]["perplexity"] > 1


def report_text(folder):
    """The part of the document that is for training: nine tenths, to the end of a line."""
    return splits("lm", folder / "a.txt", dev=0.1, test=None, columns=None, seed=0).train[0]["text"]


def test_images(tmp_path):
    image = pytest.importorskip("PIL.Image")
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=8, patch_size=4
    )
    transformers.ViTModel(config).save_pretrained(tmp_path / "vit")
    preprocessor = {"image_processor_type": "ViTImageProcessor", "size": {"height": 8, "width": 8}}
    (tmp_path / "vit" / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    for number in range(6):
        image.new("RGB", (8, 8), (40 * number, 0, 0)).save(tmp_path / f"{number}.png")
    rows = [Row(path=str(tmp_path / f"{number}.png"), label="ab"[number % 2]) for number in range(6)]
    report = inspect_rows(tmp_path / "vit", "image", rows, dev=2, recipe=Recipe(batch_size=2, epochs=1))
    assert report.usable
    assert report.parts["train"].lengths is None
    assert "3×8×8 numbers from" in report.examples[0].tokens[0]
    assert (report.cost.steps, report.cost.batch_rows) == (2, 2)
    gone = [*rows, Row(path=str(tmp_path / "gone.png"), label="a")]
    assert "no such file" in inspect_rows(tmp_path / "vit", "image", gone, dev=0).stops[0].what


def test_a_label_as_long_as_a_book(small_bert, tmp_path):
    """Somebody took the wrong column: said of each row, at once and in short."""
    (tmp_path / "rows.csv").write_text("text,label\n" + f"film,{'x' * 100_000}\ngood film,y\n" * 10)
    report = inspect_rows(small_bert, "classify", str(tmp_path / "rows.csv"), dev=0)
    assert "expected the name of a class" in str(report)
    assert len(str(report)) < 3000


def test_every_answer_that_is_not_where_it_should_be_is_counted(small_bert, tmp_path):
    answers = [("film", 5), ("film", 4), ("good", 9), ("film", 5)]
    rows = [
        {"question": "what", "context": "good film", "answers": [{"text": text, "answer_start": start}]}
        for text, start in answers
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    report = inspect_rows(small_bert, "span", str(path), dev=0)
    assert not report.usable
    assert sum(stop.count for stop in report.stops) == 2
    assert "it begins at 5" in str(report)
    assert "line 3" in str(report)
