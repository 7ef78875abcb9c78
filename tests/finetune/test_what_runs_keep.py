"""What a run keeps, and what it takes from the model it starts from: the best weights, heads, prefixes, answers."""

import json
import re
import shutil

import pytest
import torch
from small_runs import begin
from small_tasks import rows_of, write_model

import minitransformer as mt
from minitransformer.errors import (
    ConfigError,
    DataError,
    InputError,
    NotFiniteError,
    NotFoundError,
    StorageError,
)
from minitransformer.finetune import loop
from minitransformer.finetune.checkpoints import best, newest, save_state
from minitransformer.finetune.data import weights_hash
from minitransformer.finetune.recipe import Recipe
from minitransformer.finetune.run import resume
from minitransformer.finetune.start import start, template
from minitransformer.tasks import Row

QUICK = {"epochs": 1, "batch_size": 8, "learning_rate": 1e-3}


def test_a_whole_run_of_relations(tmp_path):
    folder = write_model(tmp_path / "bert", "bert")
    rows = rows_of("relation", folder)
    run = mt.finetune(folder, "relation", rows, out=tmp_path / "run", dev=6, **QUICK)
    counts, labels = mt.evaluate(tmp_path / "run", rows).confusion()
    assert set(labels) == {row["label"] for row in rows}
    assert sum(map(sum, counts)) == len(rows)
    assert run.metrics["dev"].keys() >= {"accuracy", "f1_macro"}


def test_the_best_weights_of_a_model_that_unfreezes_bit_by_bit(small_bert, rows, tmp_path):
    """Blocks that did not train when the best checkpoint was written are as they were then."""
    values = iter([0.9, *[0.1] * 20])
    model, task, examples, recipe = begin(small_bert, rows, epochs=4, batch_size=60, unfreeze_every=1.0)
    save = lambda *state: save_state(tmp_path, *state, keep=1)
    at_best = None
    for event in loop.train(model, task, examples, recipe, evaluate=lambda: {"accuracy": next(values)}, save=save):
        if event["event"] == "evaluation" and event["best"]:
            at_best = {name: x.detach().clone() for name, x in model.named_parameters()}
    assert not torch.equal(at_best["embed.tokens.weight"], model.embed.tokens.weight)
    loop.restore(best(tmp_path), model, loop.make_optimizer(model, recipe))
    assert all(torch.equal(x, at_best[name]) for name, x in model.named_parameters())


def test_asked_to_stop_at_an_evaluation_it_judges_first(small_bert, rows, tmp_path):
    model, task, examples, recipe = begin(small_bert, rows, epochs=2, batch_size=60)
    save = lambda *state: save_state(tmp_path, *state, keep=2)
    steps = []
    stop = lambda: len(steps) == 2
    for event in loop.train(model, task, examples, recipe, evaluate=lambda: {"accuracy": 0.5}, save=save, stop=stop):
        steps += [event] * (event["event"] == "step")
        last = event["event"]
    assert (len(steps), last) == (2, "saved")
    assert json.loads((tmp_path / "step-000002" / "state.json").read_text())["best_step"] == 2


def test_a_damaged_checkpoint_makes_way_for_a_good_one(small_bert, rows, tmp_path):
    def run(checkpoint):
        model, task, examples, recipe = begin(small_bert, rows, epochs=1, batch_size=30, save_every=1)
        save = lambda *state: save_state(tmp_path, *state, keep=1)
        list(loop.train(model, task, examples, recipe, checkpoint=checkpoint, save=save))

    run(None)
    (tmp_path / "step-000004" / "state.json").write_text("{}")
    with pytest.warns(UserWarning, match="step-000004: skipped"):
        assert newest(tmp_path) is None
    run(None)
    assert newest(tmp_path).name == "step-000004"


def test_a_damaged_best_checkpoint_is_told(small_bert, rows, tmp_path):
    values = iter([0.9, 0.1, 0.2])
    model, task, examples, recipe = begin(small_bert, rows, epochs=3, batch_size=120)
    save = lambda *state: save_state(tmp_path, *state, keep=1)
    list(loop.train(model, task, examples, recipe, evaluate=lambda: {"accuracy": next(values)}, save=save))
    assert best(tmp_path).name == "step-000001"
    weights = tmp_path / "step-000001" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    with pytest.warns(UserWarning, match="step-000001: it has the best weights and cannot be used"):
        assert best(tmp_path) is None


def test_a_gradient_that_is_no_number_is_named(small_bert, rows):
    """A loss that is finite and whose gradient is not: that of the square root at 0."""
    model, task, examples, recipe = begin(small_bert, rows, epochs=1)
    bias = model.encoder.layers[1].ffn_norm.bias

    class Rooted:
        def __getattr__(self, name):
            return getattr(task, name)

        def loss(self, model, batch):
            total, count = task.loss(model, batch)
            return total + (bias * 0).sqrt().sum(), count

    with pytest.raises(NotFiniteError, match=r"the gradient of encoder\.layers\.1\.ffn_norm\.bias"):
        list(loop.train(model, Rooted(), examples, recipe))


def test_a_head_for_the_same_labels_is_kept_in_its_own_order(small_bert, rows, tmp_path):
    torch.manual_seed(0)
    model = mt.load(small_bert, head="sequence-classification", labels=["positive", "negative"])
    model.save(tmp_path / "model")
    again, _ = start(str(tmp_path / "model"), "classify", rows, Recipe())
    assert again.labels == ("positive", "negative")
    assert torch.equal(again.transformer.head.cls.weight, model.transformer.head.cls.weight)


def test_from_several_labels_at_once_to_one(tmp_path):
    folder = write_model(tmp_path / "bert", "bert")
    mt.finetune(folder, "multilabel", rows_of("multilabel", folder), out=tmp_path / "several", dev=4, **QUICK)
    mt.finetune(tmp_path / "several", "classify", rows_of("classify", folder), out=tmp_path / "one", dev=4, **QUICK)
    assert type(mt.load(tmp_path / "one").predict("the film")[0]).__name__ == "Prediction"


def test_a_language_model_that_reads_both_ways_is_refused(small_bert):
    with pytest.raises(ConfigError, match="reads both ways"):
        start(str(small_bert), "lm", [Row(text="good film")], Recipe())


@pytest.mark.parametrize(
    "recipe",
    [
        {"label_smoothing": 0.1},
        {"patience": 2},
        {"metric": "mae"},
        {"stride": 4},
        {"flip": True},
        {"prefix": "say: "},
        {"class_weights": "auto"},
        {"max_target_length": 9},
        {"generation": "num_beams=2"},
        {"lora_rank": 4},
        {"lora_targets": "q", "train": "head"},
        {"adapter_size": 4, "train": "lora"},
    ],
)
def test_what_would_be_ignored_is_refused(tmp_path, recipe):
    folder = write_model(tmp_path / "bert", "bert")
    with pytest.raises(ConfigError, match=next(iter(recipe))):
        mt.finetune(folder, "regress", rows_of("regress", folder), out=tmp_path / "run", dev=0, **QUICK | recipe)


@pytest.mark.parametrize("recipe", [{"batch_tokens": 100}, {"max_length": 9}])
def test_images_have_no_tokens(tmp_path, recipe):
    folder = write_model(tmp_path / "vit", "vit")
    with pytest.raises(ConfigError, match=f"{next(iter(recipe))}: got .*, but image has no use for it"):
        mt.finetune(folder, "image", rows_of("image", tmp_path), out=tmp_path / "run", **QUICK | recipe)


def test_test_rows_are_read_before_the_work(small_bert, rows, tmp_path):
    """A row that cannot be used would else be found when all is done, and stop the run each time that it goes on."""
    for wrong, said in (({"label": "so so"}, "unknown label 'so so'"), ({"text": " "}, "expected a text")):
        test = [rows[0], Row({**rows[1], **wrong}, where="test.csv, line 3")]
        with pytest.raises(DataError, match=f"test.csv, line 3: .*{said}"):
            mt.finetune(small_bert, "classify", rows[:20], test=test, out=tmp_path / "run", steps=1)
        assert not (tmp_path / "run").exists()


def test_an_adapter_learns_more(small_bert, rows, tmp_path):
    """Its head is its own: the same labels are no new ones."""
    first = mt.finetune(small_bert, "classify", rows, out=tmp_path / "first", steps=2, train="lora")
    again = mt.finetune(tmp_path / "first" / "adapter", "classify", rows, out=tmp_path / "again", steps=1, train="head")
    assert again.model.labels == first.model.labels
    before, after = (mt.load(run.folder).transformer.state_dict() for run in (first, again))
    changed = {name for name, x in before.items() if not torch.allclose(x, after[name], atol=1e-6)}
    assert changed
    assert all(name.startswith(("head", "pooler")) for name in changed)
    hashes = {weights_hash(folder) for folder in (small_bert, tmp_path / "first", tmp_path / "first" / "adapter")}
    assert len(hashes) == 3


@pytest.mark.parametrize("train", ["lora", "adapter"])
def test_an_adapter_writes_as_its_run_does(tmp_path, train):
    """Marian's base writes 19 tokens with two beams; a run decides for itself, and its adapter's folder says so."""
    folder, rows = write_model(tmp_path / "marian", "marian"), rows_of("translate", tmp_path)
    how = {"max_target_length": 5, "generation": "num_beams=3", "max_length": 60}
    run = mt.finetune(folder, "translate", rows, out=tmp_path / "run", dev=4, train=train, **how, **QUICK)
    place = run.folder / "adapter" if train == "lora" else run.folder
    task = mt.load(place).task()
    assert (task.max_target_length, task.generation.num_beams, task.max_length) == (5, 3, 60)
    texts = [row["source"] for row in rows[:6]]
    assert mt.load(place).predict(texts) == run.model.predict(texts)


def test_an_adapter_keeps_its_chat_template_and_not_its_bases_length(tmp_path):
    folder, rows = write_model(tmp_path / "gpt2", "gpt2"), rows_of("dialogue", tmp_path)
    first = mt.finetune(folder, "dialogue", rows, out=tmp_path / "first", dev=0, max_length=50, **QUICK)
    template = "{% for m in messages %}{{ m['role'] + '>' + m['content'] }}{% endfor %}" + (
        "{% if add_generation_prompt %}{{ 'assistant>' }}{% endif %}"
    )
    how = {"train": "adapter", "chat_template": template}
    second = mt.finetune(first.folder, "dialogue", rows, out=tmp_path / "second", dev=0, **how, **QUICK)
    again = mt.load(second.folder)
    assert again.tokenizer.chat_template == template
    assert again.task().max_length == mt.load(folder).task("dialogue").max_length > 50


@pytest.mark.parametrize(
    ("first", "then"), [("adapter", "all"), ("adapter", "bias"), ("adapter", "lora"), ("lora", "adapter")]
)
def test_what_no_folder_can_hold_is_refused_before_the_work(small_bert, rows, tmp_path, first, then):
    run = mt.finetune(small_bert, "classify", rows, out=tmp_path / "first", steps=1, train=first)
    place = run.folder / "adapter" if first == "lora" else run.folder
    with pytest.raises(ConfigError, match="an adapter of another kind"):
        mt.finetune(place, "classify", rows, out=tmp_path / "then", steps=1, train=then)
    assert not (tmp_path / "then").exists()


def test_a_prefix_is_for_its_task(tmp_path):
    folder, rows = write_model(tmp_path / "t5", "t5"), rows_of("translate", tmp_path)
    mt.finetune(folder, "translate", rows, out=tmp_path / "one", dev=0, prefix="say: ", **QUICK)
    mt.finetune(tmp_path / "one", "translate", rows, out=tmp_path / "two", dev=0, **QUICK)
    mt.finetune(tmp_path / "two", "summarize", rows, out=tmp_path / "three", dev=0, **QUICK)
    assert [mt.load(tmp_path / name).task().prefix for name in ("one", "two", "three")] == ["say: ", "say: ", ""]


def test_the_base_of_an_adapter_is_part_of_a_run(small_bert, rows, tmp_path):
    shutil.copytree(small_bert, tmp_path / "base")
    run = mt.finetune(tmp_path / "base", "classify", rows, out=tmp_path / "run", steps=1, train="lora")
    before = weights_hash(run.folder / "adapter")
    shutil.copy(run.folder / "model.safetensors", tmp_path / "base")
    assert weights_hash(run.folder / "adapter") != before


def test_class_weights_name_the_label_that_there_is_not(tmp_path):
    folder = write_model(tmp_path / "bert", "bert")
    rows = rows_of("classify", folder)
    for weights, said in (("goood=2", "unknown label 'goood'"), ("a=-1", "numbers above 0"), ("a", "label=number")):
        with pytest.raises(DataError, match=f"class_weights.*{said}"):
            mt.finetune(folder, "classify", rows, out=tmp_path / "run", dev=0, class_weights=weights, **QUICK)


def test_a_model_writes_as_much_as_it_was_trained_to(tmp_path):
    folder = write_model(tmp_path / "t5", "t5")
    rows = rows_of("translate", folder)
    mt.finetune(folder, "translate", rows, out=tmp_path / "run", dev=0, max_target_length=5, **QUICK)
    assert mt.load(tmp_path / "run").task().max_target_length == 5


@pytest.mark.parametrize(
    ("generation", "said"),
    [
        ("num_beam=3", "'num_beam' is no setting; expected one such as num_beams"),
        ("num_beams", "expected fields of GenerationConfig"),
        ("num_beams=many", "expected fields of GenerationConfig"),
        ("num_beams=0", "num_beams: got 0"),
        ("num_beam_groups=2", "num_beam_groups is 2, which is not implemented"),
        ("do_sample=true", "generation: got do_sample, but a run writes one text"),
        ("temperature=0.5", "generation: got temperature, but a run writes one text"),
        ('{"stop_strings": ["e"]}', "generation: got stop_strings, but a run writes one text"),
        ('{"a":' * 5000, "expected fields of GenerationConfig"),
        ("forced_bos_token_id=99999", "expected an id among the model's"),
        ("max_new_tokens=9", "generation: got max_new_tokens"),
        ("min_length=7", "max_target_length: got 5, but the model is to write more"),
        ("min_new_tokens=5", "max_target_length: got 5, but the model is to write more"),
    ],
)
def test_how_to_write_is_checked_before_the_work(tmp_path, generation, said):
    folder = write_model(tmp_path / "t5", "t5")
    rows, how = rows_of("translate", folder), {"generation": generation, "max_target_length": 5}
    with pytest.raises((ConfigError, InputError), match=re.escape(said)):
        mt.finetune(folder, "translate", rows, out=tmp_path / "run", dev=0, **how, **QUICK)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("task", "more"), [("tag", {"stride": 2}), ("classify", {}), ("span", {"stride": 3})])
def test_a_run_predicts_as_it_was_judged(tmp_path, task, more):
    """As many tokens of a text, windows that share as many; but the next run begins afresh."""
    folder = write_model(tmp_path / "bert", "bert")
    rows = rows_of(task, folder)
    once, twice = tmp_path / "once", tmp_path / "twice"
    mt.finetune(folder, task, rows, out=once, dev=4, max_length=20, **more, **QUICK)
    found = mt.load(once).task()
    assert [getattr(found, name) for name in ("max_length", *more)] == [20, *more.values()]
    assert mt.load(once).task(task, max_length=9).max_length == 9
    mt.finetune(once, task, rows, out=twice, dev=4, **QUICK)
    assert mt.load(twice).task().max_length == mt.load(folder).task(task).max_length > 20


def test_a_text_without_end_is_cut_for_a_model_without_a_limit(tmp_path):
    model = mt.load(write_model(tmp_path / "t5", "t5"), head="sequence-classification", labels=["a", "b"])
    assert model.max_length is None
    task = model.task("classify")
    (example,) = task.encode([task.row("film " * 20_000)], targets=False)
    assert len(example) == 512
    assert example.lost > 10_000


def test_what_is_not_one_models_folder_is_said(tmp_path):
    folder = write_model(tmp_path / "bert", "bert")
    rows = rows_of("classify", folder)
    mt.run_seeds(folder, "classify", rows, out=tmp_path / "seeds", seeds=2, dev=4, recipe=Recipe(**QUICK))
    with pytest.raises(NotFoundError, match=r"several runs.*seed-0"):
        mt.evaluate(tmp_path / "seeds", rows)
    (tmp_path / "seeds" / "seed-0" / "metrics.json").unlink()
    with pytest.raises(NotFoundError, match=r"not finished.*--resume"):
        mt.evaluate(tmp_path / "seeds" / "seed-0", rows)


def test_a_name_that_is_too_long_for_a_folder(tmp_path):
    folder = write_model(tmp_path / "bert", "bert")
    with pytest.raises(StorageError, match="File name too long"):
        mt.finetune(folder, "classify", rows_of("classify", folder), out=tmp_path / ("x" * 300), dev=0, **QUICK)


@pytest.mark.parametrize("label", ["\ud83d", "a\udc00"])
def test_half_a_character_is_no_label(label):
    """JSON can say "\\ud83d", and no file can hold it."""
    with pytest.raises(DataError, match=r"a\.jsonl, line 3: 'label' .*no Unicode text"):
        Row(label=label, where="a.jsonl, line 3").name("label")
    with pytest.raises(DataError, match="no Unicode text"):
        Row(tags=["O", label]).texts("tags")


def test_a_number_too_large_for_a_float():
    with pytest.raises(DataError, match="expected a number"):
        Row(label=10**400).number("label")


def test_a_chat_template_that_is_no_text(tmp_path):
    (tmp_path / "template").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="not UTF-8 at byte 0"):
        template(str(tmp_path / "template"))


@pytest.mark.parametrize(("task", "kind"), [("relation", "bert"), ("classify", "bert"), ("summarize", "t5")])
def test_a_run_knows_its_task_where_the_head_does_not_say_it(tmp_path, task, kind):
    """A classifier that was made from one of relations has its markers, and yet reads texts without them."""
    folder = write_model(tmp_path / kind, kind)
    rows = rows_of("translate" if task == "summarize" else task, folder)
    if task == "classify":
        mt.finetune(folder, "relation", rows_of("relation", folder), out=tmp_path / "relation", dev=0, **QUICK)
        folder = tmp_path / "relation"
    mt.finetune(folder, task, rows, out=tmp_path / "run", dev=0, **QUICK)
    assert mt.load(tmp_path / "run").task_name == task


def test_another_head_is_for_another_task(tmp_path):
    folder = write_model(tmp_path / "bert", "bert")
    mt.finetune(folder, "relation", rows_of("relation", folder), out=tmp_path / "run", dev=0, **QUICK)
    assert mt.load(tmp_path / "run", head="masked-lm").task_name == "mlm"


def test_an_adapter_finds_its_base_from_anywhere(tmp_path, monkeypatch):
    write_model(tmp_path / "bert", "bert")
    rows = rows_of("classify", tmp_path / "bert")
    monkeypatch.chdir(tmp_path)
    mt.finetune("bert", "classify", rows, out="run", dev=0, train="adapter", **QUICK)
    monkeypatch.chdir("/")
    assert len(mt.load(tmp_path / "run").predict(["the film"])) == 1


def test_a_score_without_end_is_never_the_best(small_bert, rows):
    values = iter([float("inf"), 3.0, 2.0, 4.0])
    model, task, examples, recipe = begin(small_bert, rows, epochs=4, batch_size=60, metric="perplexity")
    events = list(loop.train(model, task, examples, recipe, evaluate=lambda: {"perplexity": next(values)}))
    assert [event["best"] for event in events if event["event"] == "evaluation"] == [False, True, True, False]


def test_the_worst_answers_of_each_kind(tmp_path):
    """A row without entities that is tagged right is not among the worst; of numbers, the farthest is."""
    folder = write_model(tmp_path / "bert", "bert")
    rows = rows_of("regress", folder)
    mt.finetune(folder, "regress", rows, out=tmp_path / "run", dev=4, **QUICK)
    found = mt.evaluate(tmp_path / "run", rows)
    errors = [abs(answer.value - row["label"]) for answer, row in zip(found.answers, rows, strict=True)]
    row, answer = found.worst(1)[0]
    assert abs(answer.value - row["label"]) == pytest.approx(max(errors))


def test_relative_paths_go_on(tmp_path, monkeypatch):
    """A model and a file named from here, a run that goes on, and seeds that are repeated."""
    write_model(tmp_path / "bert", "bert")
    rows = rows_of("classify", tmp_path / "bert")
    lines = "".join(f"{row['text']},{row['label']}\n" for row in rows)
    (tmp_path / "rows.csv").write_text(f"text,label\n{lines}")
    monkeypatch.chdir(tmp_path)
    mt.finetune("bert", "classify", "rows.csv", out="run", dev=4, **QUICK)
    with (tmp_path / "run" / "log.jsonl").open("a") as log:
        log.write('garbage}\n[1]\n{"event": "x"}\n')
    options = {"out": "seeds", "seeds": 2, "dev": 4, "recipe": Recipe(**QUICK)}
    first, again = (mt.run_seeds("bert", "classify", "rows.csv", **options) for _ in range(2))
    assert first.runs == again.runs
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    again = resume("../run")
    assert all(event["event"] in ("step", "evaluation", "saved") for event in again.history)


@pytest.mark.parametrize("given", [None, 5, {"text": ["a"], "label": ["b"]}])
def test_rows_that_are_none_are_refused(small_bert, tmp_path, given):
    with pytest.raises(DataError, match="expected the name of a file, or a list of dicts"):
        mt.finetune(small_bert, "classify", given, out=tmp_path / "run")


def test_our_names_for_the_columns_of_dicts(small_bert, rows, tmp_path):
    given = [{"review": row["text"], "stars": row["label"]} for row in rows]
    columns = {"text": "review", "label": "stars"}
    run = mt.finetune(small_bert, "classify", given, out=tmp_path / "run", columns=columns, dev=0.2, **QUICK)
    assert run.rows["train"] == 96


@pytest.mark.parametrize("wrong", [{"epochs": "3"}, {"steps": 2.5}, {"batch_size": True}, {"recompute": 1}])
def test_a_value_of_another_type_is_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Recipe(**wrong)
