"""One run with several seeds: the same rows for all, mean and deviation, and no work done twice."""

import json
import shutil
import statistics

import pytest
import torch
from safetensors.torch import load_file

import minitransformer as mt
from minitransformer.errors import ConfigError, DataError, MiniTransformerError
from minitransformer.finetune.many.seeds import as_lines, run_seeds, told_best
from minitransformer.finetune.recipe import Recipe
from minitransformer.finetune.run import resume

RECIPE = Recipe(steps=4, batch_size=8, learning_rate=1e-3, seed=7, save_every=1)


@pytest.fixture(scope="module")
def table(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("rows") / "rows.csv"
    path.write_text("text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in rows[:60]))
    return path


@pytest.fixture(scope="module")
def done(small_bert, table, tmp_path_factory):
    out = tmp_path_factory.mktemp("seeds") / "out"
    return run_seeds(small_bert, "classify", table, out=out, seeds=3, dev=0.3, test=0.2, recipe=RECIPE)


def file(folder, name):
    return json.loads((folder / name).read_text())


def test_all_seeds_learn_from_the_same_rows_and_each_in_its_own_way(done):
    folders = [done.folder / f"seed-{seed}" for seed in (7, 8, 9)]
    assert [file(folder, "recipe.json")["seed"] for folder in folders] == [7, 8, 9]
    assert len({file(folder, "data.json")["sha256"] for folder in folders}) == 1
    assert len({(folder / "model.safetensors").read_bytes() for folder in folders}) == 3


def test_mean_and_deviation_are_those_of_the_runs(done):
    runs = [file(done.folder / f"seed-{seed}", "metrics.json") for seed in (7, 8, 9)]
    whole = file(done.folder, "metrics.json")
    for part in ("dev", "test"):
        for metric in ("accuracy", "loss"):
            values = [run[part][metric] for run in runs]
            assert whole["metrics"][part][metric]["mean"] == pytest.approx(statistics.mean(values))
            assert whole["metrics"][part][metric]["std"] == pytest.approx(statistics.stdev(values))
    accuracies = [run["dev"]["accuracy"] for run in runs]
    best = f"seed-{7 + accuracies.index(max(accuracies))}"
    assert whole["best"] == best == done.best_folder.name
    card = (done.folder / "README.md").read_text()
    assert f"The best by dev accuracy is {best}." in card
    assert f"± {statistics.stdev([run['test']['loss'] for run in runs]):.2g}" in card
    assert f"± {statistics.stdev([run['dev']['loss'] for run in runs]):.2g}" in "\n".join(as_lines(done))
    assert mt.load(done.best_folder).predict(["good film"])[0].label in ("negative", "positive")


def test_what_is_done_is_not_done_again(small_bert, table, done):
    seen = []
    options = {"out": done.folder, "dev": 0.3, "test": 0.2}
    again = run_seeds(small_bert, "classify", table, seeds=3, recipe=RECIPE, watch=seen.append, **options)
    assert again == done
    assert {event["event"] for event in seen} == {"run"}
    with pytest.raises(DataError, match="another recipe: steps was 4, is 5"):
        run_seeds(small_bert, "classify", table, seeds=3, recipe=Recipe(steps=5, batch_size=8, seed=7), **options)
    with pytest.raises(DataError, match="other data: sha256 was"):
        run_seeds(small_bert, "classify", table, out=done.folder, seeds=3, dev=0.2, test=0.2, recipe=RECIPE)


def test_interrupted_and_repeated_is_as_good_as_in_one_go(small_bert, table, done, tmp_path):
    class PowerCutError(Exception):
        pass

    def cut(event):
        if event["event"] == "saved" and event["step"] == 2 and (tmp_path / "out" / "seed-8").exists():
            raise PowerCutError

    options = {"out": tmp_path / "out", "seeds": 3, "dev": 0.3, "test": 0.2, "recipe": RECIPE}
    with pytest.raises(PowerCutError):
        run_seeds(small_bert, "classify", table, watch=cut, **options)
    assert not (tmp_path / "out" / "seed-8" / "metrics.json").exists()
    seen = []
    again = run_seeds(small_bert, "classify", table, watch=seen.append, **options)
    assert again.runs == done.runs
    assert [event["step"] for event in seen if event["event"] == "step"] == [3, 4, 1, 2, 3, 4]
    one, other = (load_file(folder / "seed-8" / "model.safetensors") for folder in (done.folder, again.folder))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_one_of_the_runs_can_be_resumed_alone(done, tmp_path):
    """It splits the rows as the others do, although its seed is another."""
    shutil.copytree(done.folder / "seed-9", tmp_path / "seed-9")
    assert resume(tmp_path / "seed-9").metrics == done.runs[2]


def test_no_dev_rows_no_best(small_bert, table, tmp_path):
    found = run_seeds(
        small_bert, "classify", table, out=tmp_path / "a", seeds=1, dev=0, test=10, recipe=Recipe(steps=1)
    )
    assert found.best is None
    assert found.summary()["test"]["accuracy"]["std"] is None
    assert "no dev rows" in told_best(found)


def test_what_is_wrong_is_said_before_the_work(small_bert, table, tmp_path):
    (tmp_path / "README.md").write_text("years of work")
    with pytest.raises(MiniTransformerError, match="not empty; give a new folder"):
        run_seeds(small_bert, "classify", table, out=tmp_path, seeds=2, recipe=RECIPE)
    with pytest.raises(ConfigError, match="seeds: got 0"):
        run_seeds(small_bert, "classify", table, out=tmp_path / "a", seeds=0, recipe=RECIPE)
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
