"""A search: which spaces there are, which trials they make, and that no trial is made twice or left in memory."""

import gc
import json
import math
import sys
import weakref

import pytest

import minitransformer as mt
from minitransformer.errors import ConfigError, DataError, DependencyError, MiniTransformerError
from minitransformer.finetune import run as run_module
from minitransformer.finetune.many.search import search
from minitransformer.finetune.many.space import PAPERS, Range, drawn, grid, make_space
from minitransformer.finetune.recipe import Recipe

RECIPE = Recipe(steps=2, batch_size=8, learning_rate=1e-3)


def space_of(text):
    return make_space(text, Recipe())


def test_a_space_in_words():
    assert space_of("learning_rate=2e-5,3e-5 batch_size=16,32  train=head,top:2") == {
        "learning_rate": (2e-5, 3e-5),
        "batch_size": (16, 32),
        "train": ("head", "top:2"),
    }
    assert space_of("learning_rate=1e-6..1e-4:log") == {"learning_rate": Range(1e-6, 1e-4, log=True)}
    assert space_of("epochs=1..5") == {"epochs": Range(1.0, 5.0, whole=True)}
    assert space_of("weight_decay=0.0..0.1") == {"weight_decay": Range(0.0, 0.1)}
    assert space_of('lora_targets="q,v","q,k,v,o" prefix="say it: ",none') == {
        "lora_targets": ("q,v", "q,k,v,o"),
        "prefix": ("say it: ", "none"),
    }
    assert space_of("patience=none,3 flip=true,false") == {"patience": (None, 3), "flip": (True, False)}
    assert len(grid(space_of(PAPERS))) == 18


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seed=1,2", "seed cannot be searched: the best of many seeds is luck"),
        ("lr=1e-5", "got 'lr', expected a field of the recipe: train, "),
        ("epochs=1 epochs=2", "epochs is there twice"),
        ("epochs=two", "epochs: got 'two', expected a number"),
        ("batch_size=1.5", "batch_size: got '1.5', expected a whole number"),
        ("batch_size=1.5..3", "expected whole numbers, such as batch_size=1..5"),
        ("batch_size=0,16", "batch_size: got 0, expected 1 or more"),
        ("learning_rate=nan", "learning_rate: got nan, expected above 0"),
        ("learning_rate=1e-4..1e-6", "expected low < high"),
        ("weight_decay=0..1:log", "expected 0 < low < high"),
        ("lora_dropout=0.0..1.5", "lora_dropout: got 1.5"),
        ("flip=yes", "flip: got 'yes', expected true or false"),
        ("optimizer=adam", "optimizer: got 'adam', expected one of adamw"),
        ("epochs", "cannot read 'epochs'"),
        ('prefix="open', "cannot read"),
        (" ", "it is empty"),
    ],
)
def test_a_bad_space_is_refused_by_name(text, said):
    with pytest.raises(ConfigError, match=said.replace("(", r"\(")):
        space_of(text)


@pytest.mark.parametrize("given", [{"epochs": [["3"]]}, {"epochs": "3"}, {"epochs": []}, {"batch_size": [1.5]}])
def test_a_bad_space_as_data_is_refused(given):
    with pytest.raises(ConfigError, match=f"space: {next(iter(given))}: got"):
        make_space(given, Recipe())


def test_a_grid_is_each_with_each_and_has_an_end():
    assert grid(space_of("epochs=1..2 batch_size=8,4")) == [
        {"epochs": epochs, "batch_size": size} for epochs in (1, 2) for size in (8, 4)
    ]
    with pytest.raises(ConfigError, match="learning_rate is a range, of which a grid has no end"):
        grid(space_of("learning_rate=0.1..1.0"))


def test_what_is_drawn_lies_in_the_space_and_follows_from_the_seed():
    space = space_of("learning_rate=1e-6..1e-4:log epochs=1..3 warmup=0.0..0.2 train=head,all batch_size=4..64:log")
    found = drawn(space, 400, seed=3)
    assert found[:50] == drawn(space, 50, seed=3) != drawn(space, 50, seed=4)
    assert len(found) == 400
    rates = [values["learning_rate"] for values in found]
    assert all(1e-6 <= rate <= 1e-4 for rate in rates)
    assert 150 < sum(rate < 1e-5 for rate in rates) < 250  # half of a logarithmic range
    assert {values["epochs"] for values in found} == {1, 2, 3}
    assert all(0 <= values["warmup"] <= 0.2 for values in found)
    sizes = [values["batch_size"] for values in found]
    assert all(type(size) is int for size in sizes)
    assert 130 < sum(size <= 16 for size in sizes) < 270
    assert len(drawn(space_of("epochs=1..3"), 10, seed=0)) == 3


def result(folder):
    return json.loads((folder / "search.json").read_text())


def test_each_trial_is_a_run_and_the_best_is_the_model(small_bert, rows, tmp_path):
    out, seen = tmp_path / "search", []
    options = {"out": out, "dev": 0.3, "recipe": RECIPE, "space": "learning_rate=1e-7,5e-3 steps=2,30"}
    found = search(small_bert, "classify", rows, watch=seen.append, **options)
    recipes = [json.loads((out / f"trial-00{i}" / "recipe.json").read_text()) for i in range(4)]
    tried = [(recipe["learning_rate"], recipe["steps"]) for recipe in recipes]
    assert tried == [(1e-7, 2), (1e-7, 30), (5e-3, 2), (5e-3, 30)]
    assert {recipe["batch_size"] for recipe in recipes} == {8}
    written = {
        folder: json.loads((out / folder / "metrics.json").read_text())["dev"]["accuracy"]
        for folder in ("trial-000", "trial-001", "trial-002", "trial-003")
    }
    assert {trial.folder.name: trial.score for trial in found.trials} == written
    scores = [trial.score for trial in found.trials]
    assert scores == sorted(scores, reverse=True)
    assert found.best.score == max(scores) > min(scores)
    assert result(out)["best"] == found.best.folder.name
    assert [trial["score"] for trial in result(out)["trials"]] == scores
    held_out = mt.evaluate(found.best.folder, rows)
    assert held_out.metrics["accuracy"] > 0.8
    assert not list(out.glob("trial-*/checkpoints"))

    seen.clear()
    assert search(small_bert, "classify", rows, watch=seen.append, **options) == found
    assert {event["event"] for event in seen} == {"run"}
    with pytest.raises(DataError, match="another recipe: "):
        search(small_bert, "classify", rows, **{**options, "space": "learning_rate=1e-6,5e-3"})


def test_a_lower_loss_is_better(small_bert, rows, tmp_path):
    recipe = Recipe(steps=20, batch_size=8, metric="loss")
    space = {"learning_rate": [5e-3, 1e-7]}
    found = search(small_bert, "classify", rows, out=tmp_path / "a", space=space, dev=0.3, recipe=recipe)
    assert found.best.folder.name == "trial-000"
    assert found.trials[0].score < found.trials[1].score


@pytest.mark.parametrize(("sampler", "trials"), [("random", 2), ("tpe", 6)])
def test_interrupted_and_repeated_is_as_in_one_go(small_bert, rows, tmp_path, sampler, trials):
    class PowerCutError(Exception):
        pass

    def cut(event):
        if event["event"] == "step" and (tmp_path / "b" / f"trial-00{trials - 1}").exists():
            raise PowerCutError

    options = {"space": "learning_rate=1e-5..1e-2:log train=head,all", "sampler": sampler, "trials": trials}
    options |= {"dev": 0.3, "recipe": Recipe(steps=1, batch_size=8)}
    whole = search(small_bert, "classify", rows[:24], out=tmp_path / "a", **options)
    with pytest.raises(PowerCutError):
        search(small_bert, "classify", rows[:24], out=tmp_path / "b", watch=cut, **options)
    assert len(result(tmp_path / "b")["trials"]) == trials - 1
    parts = search(small_bert, "classify", rows[:24], out=tmp_path / "b", **options)
    shown = lambda found: [(trial.folder.name, trial.values, trial.metrics) for trial in found.trials]
    assert shown(parts) == shown(whole)
    assert len({tuple(values.values()) for _, values, _ in shown(whole)}) == trials


def test_tpe_goes_where_it_was_good(tmp_path):
    """On a curve with its lowest point at 1e-4, the last proposals are nearer to it than drawn ones."""
    from minitransformer.finetune.many.search import Trial, propose

    space, past = space_of("learning_rate=1e-7..1e-1:log"), []
    far = lambda values: abs(math.log10(values["learning_rate"]) + 4)
    for number in range(30):
        values = propose(space, past, "loss", f"0/{number}")
        past.append(Trial(tmp_path, values, {}, far(values)))
    assert sum(map(far, drawn(space, 200, seed=0))) / 200 > 1.3  # powers of ten, on average
    assert sum(far(trial.values) for trial in past[-10:]) / 10 < 0.9


def test_tpe_ends_where_all_is_tried(small_bert, rows, tmp_path):
    options = {"space": "batch_size=4,8", "sampler": "tpe", "trials": 5, "dev": 0.3, "recipe": RECIPE}
    found = search(small_bert, "classify", rows[:40], out=tmp_path / "a", **options)
    assert sorted(trial.values["batch_size"] for trial in found.trials) == [4, 8]


def test_a_trial_that_breaks_down_is_told_and_the_others_go_on(small_bert, rows, tmp_path):
    options = {"space": "learning_rate=1e30,1e-3", "dev": 0.3, "recipe": Recipe(steps=6, warmup=0.0)}
    found = search(small_bert, "classify", rows, out=tmp_path / "a", **options)
    assert found.best.folder.name == "trial-001"
    assert found.trials[1].score is None
    assert "step " in found.trials[1].error
    assert result(tmp_path / "a")["trials"][1]["error"] == found.trials[1].error
    seen = []
    assert search(small_bert, "classify", rows, out=tmp_path / "a", watch=seen.append, **options) == found
    assert {event["event"] for event in seen} == {"run"}


def test_no_model_stays_in_memory(small_bert, rows, tmp_path, monkeypatch):
    real, models, alive = run_module.start, [], []

    def start(*arguments):
        alive.append(sum(model() is not None for model in models))
        model, recipe = real(*arguments)
        models.append(weakref.ref(model.transformer))
        return model, recipe

    monkeypatch.setattr(run_module, "start", start)
    gc.disable()  # what is freed is freed by the search, not by luck
    try:
        space = "learning_rate=1e-4,1e30,1e-3,1e-5"
        recipe = Recipe(steps=3, warmup=0.0, batch_size=8)
        found = search(small_bert, "classify", rows, out=tmp_path / "a", space=space, dev=0.3, recipe=recipe)
    finally:
        gc.enable()
    assert alive == [0, 0, 0, 0]
    assert sum(trial.error is not None for trial in found.trials) == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"space": "train=head,layers:99"}, "train: got 'layers:99'"),
        ({"space": "metric=f2,loss"}, "metric: got 'f2', expected one of loss"),
        ({"space": "train=lora lora_targets=q,w"}, "w"),
        ({"space": "class_weights=auto,good=2"}, "class_weights"),
        ({"space": "stride=4,8"}, "stride: got 4, but classify has no use for it"),
        ({"space": "epochs=1,2", "dev": 0}, "dev: got no rows, but a search judges by them"),
        ({"space": "epochs=1,2", "sampler": "best"}, "sampler: got 'best', expected one of grid, random, tpe"),
        ({"space": "epochs=1,2", "trials": 1}, "trials: got 1, but the grid has 2"),
        ({"space": "epochs=1,2", "trials": 0, "sampler": "random"}, "trials: got 0"),
    ],
)
def test_what_is_wrong_is_said_before_the_first_trial(small_bert, rows, tmp_path, options, said):
    with pytest.raises((ConfigError, DataError, MiniTransformerError), match=said):
        search(small_bert, "classify", rows, out=tmp_path / "a", **{"dev": 0.3, "recipe": RECIPE, **options})
    assert not (tmp_path / "a").exists()


def test_tpe_needs_optuna(small_bert, rows, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(DependencyError, match=r"pip install 'minitransformer\[search\]'"):
        search(small_bert, "classify", rows, out=tmp_path / "a", space="epochs=1,2", sampler="tpe")
