"""What loggers write is what log.jsonl says."""

import json
import sys
import types

import pytest
from typer.testing import CliRunner

import minitransformer as mt
from minitransformer.cli import app
from minitransformer.errors import ConfigError, DependencyError
from minitransformer.finetune.loggers import loggers


@pytest.fixture
def table(rows, tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in rows[:40]))
    return path


def logged(folder):
    """The numbers of log.jsonl: {"train/loss": [(step, value), …], …}."""
    found = {}
    for line in (folder / "log.jsonl").read_text().splitlines():
        event = json.loads(line)
        part = {"step": "train", "evaluation": "dev"}.get(event["event"])
        for name, x in event.items():
            if part and name not in ("event", "step", "steps", "best", "metric"):
                found.setdefault(f"{part}/{name}", []).append((event["step"], x))
    return found


def drawn(folder):
    """The same, from the event files."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(each.step, each.value) for each in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_has_the_numbers_of_the_log(calm_bert, table, tmp_path):
    pytest.importorskip("tensorboard")
    out = tmp_path / "run"
    command = ["finetune", calm_bert, table, "--out", out, "--epochs", 2, "--batch-size", 8, "--log-to", "tensorboard"]
    done = CliRunner().invoke(app, [str(part) for part in command], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    expected, found = logged(out), drawn(out)
    assert found.keys() == expected.keys()
    assert {"train/loss", "train/learning_rate", "dev/accuracy"} <= found.keys()
    for name, points in expected.items():
        assert [step for step, _ in found[name]] == [step for step, _ in points], name
        assert [x for _, x in found[name]] == pytest.approx([x for _, x in points], rel=1e-6), name  # float32
    assert len(found["train/loss"]) == 10  # 36 rows, 8 at a time, twice


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_steps_that_come_again_are_shown_once(tmp_path):
    pytest.importorskip("tensorboard")
    for steps in ((1, 2, 3), (2, 3, 4)):
        with loggers(["tensorboard"], tmp_path) as watch:
            for step in steps:
                watch({"event": "step", "step": step, "loss": steps[0] + step / 8})
    assert drawn(tmp_path) == {"train/loss": [(1, 1.125), (2, 2.25), (3, 2.375), (4, 2.5)]}


class Recorder(types.ModuleType):
    """Stands for wandb: what it was told."""

    def __init__(self):
        super().__init__("wandb")
        self.told = []

    def init(self, **fields):
        self.told.append(("init", fields))
        return self

    def log(self, numbers, step):
        self.told.append((step, numbers))

    def finish(self):
        self.told.append(("finish",))


def test_wandb_is_told_of_every_step_beside_another_watcher(calm_bert, table, tmp_path, monkeypatch):
    recorder, seen = Recorder(), []
    monkeypatch.setitem(sys.modules, "wandb", recorder)
    out = tmp_path / "run"
    with loggers(["wandb"], out) as log:

        def watch(event):
            seen.append(event["event"])
            log(event)

        mt.finetune(calm_bert, "classify", table, out=out, epochs=1, watch=watch)
    assert recorder.told[0] == ("init", {"project": "minitransformer", "name": "run", "dir": str(out)})
    assert recorder.told[-1] == ("finish",)
    found = {}
    for step, numbers in recorder.told[1:-1]:
        for name, x in numbers.items():
            found.setdefault(name, []).append((step, x))
    assert found == logged(out)
    assert "saved" in seen


def test_finish_is_called_also_when_the_run_fails(tmp_path, monkeypatch):
    recorder = Recorder()
    monkeypatch.setitem(sys.modules, "wandb", recorder)
    with pytest.raises(KeyError), loggers(["wandb"], tmp_path) as watch:  # noqa: PT012
        watch({"event": "step", "step": 1, "loss": 1.0})
        raise KeyError
    assert recorder.told[-1] == ("finish",)


def test_what_is_unknown_or_missing_is_said_before_the_run(tmp_path, monkeypatch):
    with (
        pytest.raises(ConfigError, match="got mlflow, expected some of tensorboard, wandb"),
        loggers(["mlflow"], tmp_path),
    ):
        pass
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(DependencyError, match=r"minitransformer\[wandb\]"), loggers(["wandb"], tmp_path):
        pass
