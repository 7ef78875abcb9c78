"""A run's folder is what transformers reads: names of labels, logits, pipelines; an adapter's is what peft reads."""

import numpy as np
import peft
import pytest
import torch
import transformers
from small_tasks import READERS, rows_of
from small_writers import LINES, bart, marian, t5, theirs

import minitransformer as mt
from minitransformer.tasks import Row

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")  # peft asks transformers

SHORT = {"epochs": 2, "batch_size": 6, "learning_rate": 5e-3, "evaluate_every": 2}
CLASSES = {
    "classify": transformers.AutoModelForSequenceClassification,
    "tag": transformers.AutoModelForTokenClassification,
    "span": transformers.AutoModelForQuestionAnswering,
    "regress": transformers.AutoModelForSequenceClassification,
    "multilabel": transformers.AutoModelForSequenceClassification,
    "mlm": transformers.AutoModelForMaskedLM,
    "translate": transformers.AutoModelForSeq2SeqLM,
    "image": transformers.AutoModelForImageClassification,
    "lm": transformers.AutoModelForCausalLM,
    "choice": transformers.AutoModelForMultipleChoice,
    "lora": transformers.AutoModelForSequenceClassification,  # merged
}
LABELS = {"classify": "abc", "lora": "abc", "image": "abc", "multilabel": "abc", "regress": ("LABEL_0",)}
LABELS |= {"tag": ("O", "B-film", "I-film", "B-who", "I-who")}
UNREAD = ("labels", "start_positions", "end_positions")


@pytest.fixture(scope="module")
def run_of(model_folder, tmp_path_factory):
    """run_of("tag"): a short run of that task (of "lora", one that trains an adapter), and its rows; made once."""
    runs = {}

    def run_of(name):
        if name not in runs:
            task, train = ("classify", "lora") if name == "lora" else (name, "all")
            folder = tmp_path_factory.mktemp("run")
            rows = rows_of(task, folder)
            base = model_folder(READERS.get(task, "bert"))
            more = {"max_target_length": 12} if name == "translate" else {}
            run = mt.finetune(base, task, rows, out=folder / "out", dev=rows[:6], train=train, **SHORT, **more)
            runs[name] = run, rows
        return runs[name]

    return run_of


def batch_of(run, rows):
    """What the trained model reads of these rows."""
    batch = run.task.collate(run.task.encode(rows))
    if run.model.transformer.encoder is None or run.model.transformer.decoder is None:
        return {name: x for name, x in batch.items() if name not in UNREAD}
    return batch  # a decoder reads the labels


def outputs(model, batch):
    """All logits of a model for a batch, its last ones first."""
    with torch.no_grad():
        output = model(**batch)
    names = ("start_logits", "end_logits") if getattr(output, "start_logits", None) is not None else ("logits",)
    return [getattr(output, name) for name in names]


@pytest.mark.parametrize("name", CLASSES)
def test_transformers_reads_the_folder(name, run_of):
    """Nothing is missing, the labels have their names, and the logits are those of the trained model."""
    run, rows = run_of(name)
    theirs, told = CLASSES[name].from_pretrained(run.folder, output_loading_info=True)
    assert [told[what] for what in ("missing_keys", "unexpected_keys", "mismatched_keys")] == [set()] * 3
    assert type(theirs).__name__ == theirs.config.architectures[0]
    if name in LABELS:
        assert tuple(theirs.config.id2label.values()) == tuple(LABELS[name]) == run.model.labels
        assert theirs.config.label2id == {label: i for i, label in theirs.config.id2label.items()}
    batch = batch_of(run, rows[:5])
    for ours, expected in zip(outputs(run.model, batch), outputs(theirs, batch), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
    if name in ("regress", "multilabel"):
        assert theirs.config.problem_type == run.task.kind.config["problem_type"]


@pytest.mark.parametrize("name", CLASSES)
def test_what_is_loaded_answers_as_what_was_trained(name, run_of):
    run, rows = run_of(name)
    again = mt.load(run.folder)
    if name == "lm":
        assert again.generate("the film", max_new_tokens=9) == run.model.generate("the film", max_new_tokens=9)
    else:
        given = [question(row) for row in rows[:4]]
        ours, found = run.model.predict(given, batch_size=3), again.predict(given, batch_size=3)
        assert [x.label for x in found] == [x.label for x in ours] if name == "lora" else found == ours
    scores = mt.evaluate(run.folder, rows[:6]).metrics
    assert scores == pytest.approx(run.metrics["dev"], rel=1e-5, nan_ok=True)


def question(row):
    """A row without what is to be learned; of a masked language model, with a mask."""
    asked = {column: row[column] for column in row if column not in ("label", "labels", "tags", "answers", "target")}
    return {"text": f"{row['text']} [MASK]"} if set(row) == {"text"} else asked


def pipeline(task, folder):
    return transformers.pipeline(task, model=str(folder), device="cpu")


@pytest.mark.parametrize("name", ["classify", "lora"])
def test_pipeline_of_texts(name, run_of):
    run, rows = run_of(name)
    texts = [row["text"] for row in rows]
    found = pipeline("text-classification", run.folder)(texts)
    ours = run.model.predict(texts)
    assert [answer["label"] for answer in found] == [answer.label for answer in ours]
    assert [answer["score"] for answer in found] == pytest.approx([answer.score for answer in ours], abs=1e-5)


def test_pipeline_of_several_labels(run_of):
    run, rows = run_of("multilabel")
    found = pipeline("text-classification", run.folder)([row["text"] for row in rows], top_k=None)
    for answer, ours in zip(found, run.model.predict([row["text"] for row in rows]), strict=True):
        assert {each["label"]: each["score"] for each in answer} == pytest.approx(ours.scores, abs=1e-5)


def test_pipeline_of_numbers(run_of):
    run, rows = run_of("regress")
    texts = [row["text"] for row in rows]
    found = pipeline("text-classification", run.folder)(texts, function_to_apply="none")
    assert [each["score"] for each in found] == pytest.approx([x.value for x in run.model.predict(texts)], abs=1e-5)


def test_pipeline_of_tags(run_of):
    run, rows = run_of("tag")
    found = pipeline("token-classification", run.folder)
    for row in rows:
        words = row["words"]
        first = {}  # a word's first token has its tag
        for token in found(" ".join(words), ignore_labels=[]):
            first.setdefault(len(" ".join(words)[: token["start"] + 1].split()) - 1, token["entity"])
        assert [first[place] for place in range(len(words))] == run.model.predict([words])[0].tags


def test_pipeline_of_masks(run_of):
    run, rows = run_of("mlm")
    texts = [f"{row['text']} [MASK]" for row in rows[:5]]
    for answers, ours in zip(pipeline("fill-mask", run.folder)(texts), run.model.predict(texts), strict=True):
        assert [x["score"] for x in answers] == pytest.approx([share for _, share in ours.places[0]], abs=1e-5)


def test_pipeline_of_images(run_of):
    from PIL import Image

    run, rows = run_of("image")
    found = pipeline("image-classification", run.folder)([Image.open(row["path"]) for row in rows], top_k=1)
    ours = run.model.predict([row["path"] for row in rows])
    assert [answer[0]["label"] for answer in found] == [answer.label for answer in ours]
    assert [answer[0]["score"] for answer in found] == pytest.approx([answer.score for answer in ours], abs=1e-4)


@pytest.mark.parametrize("write", [t5, bart, marian])
@pytest.mark.parametrize("generation", ["", "num_beams=3,length_penalty=0.5,no_repeat_ngram_size=2,min_length=4"])
def test_transformers_writes_the_same_translations(write, generation, tmp_path):
    """By the files alone: it is not told how many beams, how long, which tokens never."""
    rows = [Row(source=line[:20], target=line[:9]) for line in LINES[:12]]
    how = {"max_target_length": 12, "generation": generation, "learning_rate": 1e-4, "epochs": 1}
    run = mt.finetune(write(tmp_path / "base"), "translate", rows, out=tmp_path / "run", dev=rows[:6], **how)
    model, tokenizer = theirs(run.folder)
    sources = [row["source"] for row in rows[:6]]
    ids = [model.generate(**tokenizer(source, return_tensors="pt"))[0] for source in sources]
    expected = [tokenizer.decode(row, skip_special_tokens=True) for row in ids]
    assert [answer.text for answer in mt.load(run.folder).predict(sources)] == expected
    assert len(set(expected)) > 2
    assert max(len(row) for row in ids) <= 13


def test_peft_reads_the_adapter(run_of):
    """The adapter and the head alone: a fraction of the model, which peft and `load` put into the base."""
    run, rows = run_of("lora")
    adapter = run.folder / "adapter"
    base = transformers.AutoModelForSequenceClassification.from_pretrained(run.model.base, num_labels=3)
    theirs = peft.PeftModel.from_pretrained(base, adapter).eval()
    again = mt.load(adapter)
    batch = batch_of(run, rows[:5])
    expected = outputs(run.model, batch)[0]
    assert expected.std() > 1e-3
    torch.testing.assert_close(outputs(theirs.get_base_model(), batch)[0], expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(outputs(again, batch)[0], expected, rtol=1e-5, atol=1e-5)
    assert again.labels == run.model.labels
    texts = [row["text"] for row in rows]
    ours, loaded = (np.array([answer.score for answer in model.predict(texts)]) for model in (run.model, again))
    np.testing.assert_allclose(loaded, ours, atol=1e-5)
