"""A run that was broken off and goes on ends in the same weights, to the last bit, wherever it was broken off."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch
from small_runs import begin, same, trained

from minitransformer.errors import CorruptFileError, StorageError
from minitransformer.finetune import checkpoints as module
from minitransformer.finetune.checkpoints import State, newest, restore, save_state, verify
from minitransformer.finetune.loop import train
from minitransformer.finetune.optimizers import make_optimizer
from minitransformer.tasks import Row

MASKED = {"task": "mlm", "epochs": 3, "batch_size": 30}
RUNS = {
    "dropout": {"epochs": 1.5, "batch_size": 15},
    "accumulation": {"epochs": 1.5, "batch_size": 15, "micro_batch_size": 4},
    "tokens": {"epochs": 1.5, "batch_size": 15, "batch_tokens": 90},
    "random masks": MASKED,
    "lora": {"epochs": 1.5, "batch_size": 15, "train": "lora", "lora_dropout": 0.2},
    "adapter": {"epochs": 1.5, "batch_size": 15, "train": "adapter"},
    "gradual unfreezing": {"epochs": 3, "batch_size": 30, "unfreeze_every": 0.7},
    "new top": {"epochs": 1.5, "batch_size": 15, "reinitialise_top": 1, "train": "head"},
    "sgd": {"epochs": 1.5, "batch_size": 15, "optimizer": "sgd"},
    "adafactor": {"epochs": 1.5, "batch_size": 15, "optimizer": "adafactor"},
    "bfloat16": {"epochs": 1.5, "batch_size": 15, "dtype": "bfloat16"},
    "float16": {"epochs": 1.5, "batch_size": 15, "dtype": "float16"},  # its scale is too high at first, and comes down
}


def keep_all(folder):
    return lambda model, optimizer, state: save_state(folder, model, optimizer, state, keep=1000)


@pytest.mark.parametrize("name", RUNS)
def test_from_every_step_to_the_same_bits(small_bert, rows, tmp_path, name):
    recipe = {**RUNS[name], "save_every": 1}
    whole, losses = trained(small_bert, rows, save=keep_all(tmp_path), **recipe)
    checkpoints = sorted(tmp_path.iterdir())
    assert len(checkpoints) == len(losses) >= 12
    for step, checkpoint in enumerate(checkpoints, start=1):
        again, rest = trained(small_bert, rows, checkpoint=checkpoint, **recipe)
        assert rest == losses[step:], step
        assert same(again, whole), step


def test_the_patience_that_is_left_goes_on_too(small_bert, rows, tmp_path):
    recipe = {"epochs": 9, "batch_size": 60, "patience": 3}
    values = [0.5, 0.9, 0.1, 0.2, 0.3, 0.4]
    judges = lambda left: lambda: {"accuracy": next(left)}
    model, task, examples, complete = begin(small_bert, rows, **recipe)
    whole = list(train(model, task, examples, complete, evaluate=judges(iter(values)), save=keep_all(tmp_path)))
    assert whole[-1]["step"] == 10
    model, task, examples, complete = begin(small_bert, rows, **recipe)
    assert list(train(model, task, examples, complete, checkpoint=tmp_path / "step-000010")) == []
    for epochs in range(1, 5):
        model, task, examples, complete = begin(small_bert, rows, **recipe)
        checkpoint = tmp_path / f"step-{2 * epochs:06d}"
        rest = list(
            train(model, task, examples, complete, checkpoint=checkpoint, evaluate=judges(iter(values[epochs:])))
        )
        assert rest[-1]["step"] == 10
        told = [(event["step"], event["best"]) for event in rest if event["event"] == "evaluation"]
        assert told == [
            (event["step"], event["best"])
            for event in whole
            if event["event"] == "evaluation" and event["step"] > 2 * epochs
        ]


def test_a_smaller_part_for_want_of_memory_goes_on_too(calm_bert, rows, tmp_path):
    model, _, _, recipe = begin(calm_bert, rows, epochs=1)
    optimizer = make_optimizer(model, recipe)
    state = State(step=3, micro_batch_size=4, best=0.5, best_step=2, since_best=1, scaler={"scale": 8.0})
    assert restore(save_state(tmp_path, model, optimizer, state, keep=2), model, optimizer) == state


@pytest.fixture
def checkpoints(small_bert, rows, tmp_path):
    """Three checkpoints, the model and the optimizer that the last is of."""
    trained(small_bert, rows, epochs=0.2, batch_size=8, save_every=1, save=keep_all(tmp_path / "checkpoints"))
    assert len(list((tmp_path / "checkpoints").iterdir())) == 3
    return tmp_path / "checkpoints"


@pytest.mark.parametrize("file", ["weights.safetensors", "optimizer.safetensors", "state.json", "manifest.json"])
def test_one_flipped_byte_and_the_checkpoint_before_is_taken(checkpoints, file):
    last = checkpoints / "step-000003"
    data = bytearray((last / file).read_bytes())
    data[random.Random(0).randrange(len(data))] ^= 0x10
    (last / file).write_bytes(data)
    with pytest.raises(Exception, match=file.split(".")[0]):
        verify(last)
    with pytest.warns(UserWarning, match=r"step-000003: skipped"):
        assert newest(checkpoints) == checkpoints / "step-000002"


@pytest.mark.parametrize("harm", ["empty folder", "file missing", "file too many", "cut short"])
def test_a_checkpoint_that_is_not_whole_is_skipped(checkpoints, harm):
    last = checkpoints / "step-000003"
    if harm == "empty folder":
        last = checkpoints / "step-000004"
        last.mkdir()
    elif harm == "file missing":
        (last / "optimizer.safetensors").unlink()
    elif harm == "file too many":
        manifest = json.loads((last / "manifest.json").read_text())
        manifest["files"]["../../x"] = {}
        (last / "manifest.json").write_text(json.dumps(manifest))
    else:
        path = last / "weights.safetensors"
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.warns(UserWarning, match=f"{last.name}: skipped"):
        found = newest(checkpoints)
    assert found == checkpoints / ("step-000003" if harm == "empty folder" else "step-000002")


def test_the_newest_and_the_best_are_kept(small_bert, rows, tmp_path):
    values = iter([0.2, 0.9, 0.3, 0.4, 0.5])
    model, task, examples, recipe = begin(small_bert, rows, epochs=5, batch_size=120)
    save = lambda *state: save_state(tmp_path, *state, keep=2)
    for _ in train(model, task, examples, recipe, evaluate=lambda: {"accuracy": next(values)}, save=save):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000002", "step-000004", "step-000005"]


def test_a_checkpoint_of_another_model_is_refused(checkpoints, small_bert, rows):
    model, _, _, recipe = begin(small_bert, [*rows, *(Row(text="a", label="mixed") for _ in range(9))])
    with pytest.raises(CorruptFileError, match=r"head\.cls"):
        restore(checkpoints / "step-000003", model, make_optimizer(model, recipe))


def test_a_full_disk_leaves_what_is_there(checkpoints, small_bert, rows, monkeypatch):
    """A disk that is full in the middle of the second file."""
    model, _, _, recipe = begin(small_bert, rows)
    real = module.save_tensors

    def full(tensors, path):
        if path.name == "optimizer.safetensors":
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device", str(path))
        real(tensors, path)

    monkeypatch.setattr(module, "save_tensors", full)
    with pytest.raises(StorageError, match="No space left"):
        save_state(checkpoints, model, make_optimizer(model, recipe), State(step=9), keep=1)
    assert newest(checkpoints) == checkpoints / "step-000003"
    assert sorted(path.name for path in checkpoints.iterdir()) == [f"step-00000{i}" for i in (1, 2, 3)]


SAVER = """
import sys, torch
from pathlib import Path
from minitransformer.finetune import checkpoints as module
from minitransformer.finetune.checkpoints import State, save_state
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(300, 300), torch.nn.Linear(300, 300))
optimizer = torch.optim.AdamW(model.parameters())
for step in range(1, 100000):
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(step)
            optimizer.state[p] = {"step": torch.tensor(float(step)), "exp_avg": torch.full_like(p, step)}
    save_state(Path(sys.argv[1]), model, optimizer, State(step=step, best_step=1), keep=2)
    print(step, flush=True)
"""


def killed_while_saving(folder, delay):
    """Kill a process that saves all the time; the last step that it said it had saved."""
    process = subprocess.Popen([sys.executable, "-c", SAVER, str(folder)], stdout=subprocess.PIPE, text=True)
    process.stdout.readline()
    time.sleep(delay)
    os.kill(process.pid, signal.SIGKILL)
    said = process.communicate()[0].split()
    return int(said[-1]) if said else 1


def check_after_kill(folder, said):
    checkpoint = newest(folder)
    step = int(checkpoint.name.removeprefix("step-"))
    assert step >= said
    model = torch.nn.Sequential(torch.nn.Linear(300, 300), torch.nn.Linear(300, 300))
    optimizer = torch.optim.AdamW(model.parameters())
    assert restore(checkpoint, model, optimizer).step == step
    assert all(bool((p == step).all()) for p in model.parameters())
    assert all(bool((optimizer.state[p]["exp_avg"] == step).all()) for p in model.parameters())


def test_kill_at_any_moment_leaves_a_whole_checkpoint(tmp_path):
    kills = random.Random(1)
    for attempt in range(3):
        folder = tmp_path / str(attempt)
        check_after_kill(folder, killed_while_saving(folder, kills.uniform(0, 0.4)))


@pytest.mark.slow
def test_two_hundred_kills(tmp_path):
    """The process goes on with a folder in which others have been killed."""
    kills = random.Random(2)
    for attempt in range(200):
        folder = tmp_path / str(attempt % 10)
        for path in folder.glob("step-*") if folder.exists() else ():
            for file in path.iterdir():
                file.unlink()
            path.rmdir()
        check_after_kill(folder, killed_while_saving(folder, kills.uniform(0, 0.4)))
