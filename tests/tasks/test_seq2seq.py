"""Translation and summaries: batches and losses as transformers has them, texts that are learned and written."""

import dataclasses

import pytest
import tokenizers
import torch
import transformers
from small_task_models import mean_and_parts, overfit, their_loss
from small_writers import LINES, bart, byte_level, marian, t5, theirs

import minitransformer as mt
from minitransformer.errors import DataError, InputError, TokenizerError
from minitransformer.tasks import Row
from minitransformer.tasks.inference import predict
from minitransformer.tasks.seq2seq import Seq2Seq, Summarize, Translate, Written
from minitransformer.tasks.task import Criterion
from minitransformer.text import Tokenizer

FOLDERS = {"t5": t5, "bart": bart, "marian": marian}
CLASSES = {
    "t5": transformers.T5ForConditionalGeneration,
    "bart": transformers.BartForConditionalGeneration,
    "marian": transformers.MarianMTModel,
}
TEXTS = [line[:size] for line, size in zip(LINES[:4], (9, 30, 21, 14), strict=True)]
TARGETS = [line[:size] for line, size in zip(LINES[9:13], (17, 5, 11, 26), strict=True)]
ROWS = [Row(source=source, target=target) for source, target in zip(TEXTS, TARGETS, strict=True)]
SIXTEEN = [Row(source=f"{chr(97 + i)} film", target=LINES[i][:7].strip()) for i in range(16)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    home = tmp_path_factory.mktemp("models")
    return {name: write(home / name) for name, write in FOLDERS.items()}


@pytest.fixture(params=FOLDERS)
def name(request):
    return request.param


def plain():
    """The paper's own model, untrained, and a tokenizer made by hand."""
    tokenizer = Tokenizer(
        byte_level("<pad>", "<s>", "</s>"),
        special={"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"},
        config={},
    )
    config = mt.vaswani2017(vocab_size=len(tokenizer), layers=1, d_model=32, heads=2, d_ffn=64, dropout=0.0)
    torch.manual_seed(0)
    return mt.build(dataclasses.replace(config, decoder_start_id=1, pad_id=0)), tokenizer


def test_the_loss_is_transformers(folders, name, tmp_path):
    model = mt.load(folders[name], dtype=torch.float64).eval()
    task = Translate(model.tokenizer, (), 60)
    batch = task.collate(task.encode(ROWS))
    right = their_loss(CLASSES[name], model, batch, tmp_path / "ours")
    whole, parts = mean_and_parts(task, model.transformer, batch)
    assert whole == pytest.approx(right, rel=1e-6 if name == "t5" else 1e-9)  # their T5 norms in float32
    assert parts == pytest.approx(whole, rel=1e-12)
    assert task.count(batch) == (batch["labels"] != -100).sum()


def test_the_batch_is_transformers(folders, name):
    ours = mt.load(folders[name])
    oracle, tokenizer = theirs(folders[name])
    task = Translate(ours.tokenizer, (), 60, prefix="say: ")
    batch = task.collate(task.encode(ROWS))
    encoded = [tokenizer("say: " + row["source"], text_target=row["target"]) for row in ROWS]
    collator = transformers.DataCollatorForSeq2Seq(tokenizer, oracle, padding=True)
    right = collator([{name: row[name] for name in ("input_ids", "attention_mask", "labels")} for row in encoded])
    for field in ("input_ids", "attention_mask", "labels"):
        assert torch.equal(batch[field], right[field]), field
    read = ours.transformer._shifted(batch["input_ids"], batch["labels"])
    assert torch.equal(read, right["decoder_input_ids"])


def test_what_is_written_is_transformers(folders, name):
    model = mt.load(folders[name])
    oracle, tokenizer = theirs(folders[name])
    for beams in (1, 3):
        how = mt.GenerationConfig(num_beams=beams)
        task = Translate(model.tokenizer, (), 60, max_target_length=12, generation=how)
        answers = predict(model.transformer, task, [task.row(text) for text in TEXTS], batch_size=3)
        pad = tokenizer.pad_token_id
        for row, answer in zip(ROWS, answers, strict=True):
            ids = tokenizer(row["source"], return_tensors="pt")
            settings = {"bad_words_ids": None, "suppress_tokens": [pad], "forced_eos_token_id": None}
            found = oracle.generate(**ids, max_new_tokens=12, num_beams=beams, max_length=None, **settings)
            assert answer == Written(row["source"], tokenizer.decode(found[0], skip_special_tokens=True))


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_sixteen_sentences_are_learned_and_written(folders, name):
    model = mt.load(folders[name], config={"dropout_rate": 0.0} if name == "t5" else {"dropout": 0.0})
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.1)
    task = Translate(model.tokenizer, (), 30, prefix="say: ")
    assert overfit(task, model.transformer, SIXTEEN, steps=200, rate=5e-3) < 1e-2
    answers = predict(model.transformer, task, SIXTEEN, batch_size=5)
    assert [answer.text for answer in answers] == [row["target"] for row in SIXTEEN]
    assert task.score(answers, SIXTEEN)["chrf"] == pytest.approx(100)


def test_a_model_that_was_built_learns_and_writes():
    model, tokenizer = plain()
    task = Translate(tokenizer, (), None)
    assert tokenizer.encode("a film")[-1] != 2
    assert overfit(task, model, SIXTEEN[:6], steps=100, rate=5e-3) < 0.1
    answers = predict(model, task, [task.row(row["source"]) for row in SIXTEEN[:6]], batch_size=2)
    assert [answer.text for answer in answers] == [row["target"] for row in SIXTEEN[:6]]


def test_targets_have_one_end_token_and_their_own_vocabulary(folders, name):
    tokenizer = mt.load(folders[name]).tokenizer
    end = tokenizer.eos_token_id
    for example, row in zip(Translate(tokenizer, (), None).encode(ROWS), ROWS, strict=True):
        assert list(example.target) == tokenizer.target.encode(row["target"])
        assert list(example.target).count(end) == 1
        assert example.target[-1] == end
        assert example.lost == 0


def test_long_texts_are_cut_and_counted(folders, name):
    tokenizer = mt.load(folders[name]).tokenizer
    task = Summarize(tokenizer, (), 7, max_target_length=5)
    for example, row in zip(task.encode(ROWS), ROWS, strict=True):
        source, target = tokenizer.encode(row["source"]), tokenizer.target.encode(row["target"])
        assert len(example.inputs["input_ids"]) == min(7, len(source))
        assert example.inputs["input_ids"][-1] == source[-1]  # the special token at the end stays
        assert list(example.target[:-1]) == target[: min(5, len(target)) - 1]
        assert example.target[-1] == tokenizer.eos_token_id
        assert example.lost == max(0, len(source) - 7) + max(0, len(target) - 5)


def test_examples_of_like_length_have_like_sources_and_targets(folders):
    task = Translate(mt.load(folders["t5"]).tokenizer, (), None)
    for example in task.encode(ROWS):
        assert len(example) == len(example.inputs["input_ids"]) + len(example.target)
    for example in task.encode(ROWS, targets=False):
        assert len(example) == len(example.inputs["input_ids"])
        assert example.target is None


def test_no_more_is_written_than_the_model_has_positions_for(folders):
    model = mt.load(folders["bart"])  # 64 positions
    task = Translate(model.tokenizer, (), 60, max_target_length=500)
    assert task.writing(model.transformer).max_new_tokens == 63
    predict(model.transformer, task, [task.row("What a film!")], batch_size=1)
    task = Translate(model.tokenizer, (), 60, max_target_length=9)
    assert task.writing(model.transformer).max_new_tokens == 9
    assert Translate(model.tokenizer, (), 60).writing(mt.load(folders["t5"]).transformer).max_new_tokens == 128


def test_padding_is_never_written(folders, name):
    model = mt.load(folders[name])
    task = Translate(model.tokenizer, (), 60)
    found = task.writing(model.transformer)
    assert found.suppress_tokens == (model.tokenizer.pad_token_id,)
    assert found.eos_token_id == (model.tokenizer.eos_token_id,)


def test_labels_are_smoothed(folders):
    model = mt.load(folders["t5"], dtype=torch.float64).eval()
    task = Translate(model.tokenizer, (), 60, Criterion(label_smoothing=0.1))
    batch = task.collate(task.encode(ROWS))
    smoother = transformers.trainer_pt_utils.LabelSmoother(epsilon=0.1)
    with torch.no_grad():
        right = smoother(model(**batch).__dict__, batch["labels"].clone())
        total, count = task.loss(model.transformer, batch)
    assert (total / count).item() == pytest.approx(right.item(), rel=1e-7)  # theirs adds in float32


def test_summaries_are_scored_by_rouge_and_translations_by_bleu(folders):
    tokenizer = mt.load(folders["t5"]).tokenizer
    rows = [Row(source="a", target="the film was good"), Row(source="b", target="what a plot")]
    answers = [Written("a", "the film was good"), Written("b", "what a plot")]
    wrong = [Written("a", "the film was bad"), Written("b", "no")]
    for kind, best in ((Summarize, 1), (Translate, 100)):
        task = kind(tokenizer, (), None)
        assert task.score(answers, rows)[task.kind.metric] >= task.score(wrong, rows)[task.kind.metric]
        assert task.score(answers, rows[:1] * 2)[task.kind.metric] < best
    assert Summarize(tokenizer, (), None).score(answers, rows) == dict.fromkeys(
        ("rouge1", "rouge2", "rougeL", "rougeLsum"), 1
    )
    assert Translate(tokenizer, (), None).score(wrong, rows).keys() == {"bleu", "chrf"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"target": "a"}, "x.tsv, line 7: 'source' is not among the columns target"),
        ({"source": "a"}, "x.tsv, line 7: 'target' is not among the columns source"),
        ({"source": " ", "target": "a"}, "x.tsv, line 7: 'source' is ' '"),
        ({"source": "a", "target": 3}, "x.tsv, line 7: 'target' is 3, expected a text"),
    ],
)
def test_rows_that_are_refused(folders, row, message):
    task = Translate(mt.load(folders["t5"]).tokenizer, (), None)
    with pytest.raises(DataError, match=message):
        task.encode([Row(row, where="x.tsv, line 7")])


def test_what_else_is_refused():
    _, tokenizer = plain()
    with pytest.raises(InputError, match="max_target_length: got 1"):
        Translate(tokenizer, (), None, max_target_length=1)
    with pytest.raises(InputError, match="expected a text, or a dict"):
        Translate(tokenizer, (), None).row(("a", "b"))
    endless = Tokenizer(tokenizers.Tokenizer(tokenizers.models.BPE()), special={}, config={})
    with pytest.raises(TokenizerError, match="no end token"):
        Seq2Seq(endless, (), None)
