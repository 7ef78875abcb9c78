"""Several processes train the same model as one: in float64, without dropout, with the weights spread or not."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from distributed_runs import in_processes, outcome
from safetensors.torch import load_file
from small_tasks import READERS, rows_of

from minitransformer.parity.predictions import transformers_labels

CASES = {  # what is tested -> (task, family or None: the task's usual one, fields of the recipe); 16 rows, 5 in a step
    "classify, a process without rows": ("classify", None, {"batch_size": 15, "optimizer": "adamw"}),
    "tag, windows": ("tag", None, {"max_length": 9, "stride": 3, "micro_batch_size": 2}),
    "span": ("span", None, {}),
    "lm": ("lm", None, {}),
}
MORE = {
    "mlm, random masks": ("mlm", None, {}),
    "activations computed twice": ("classify", None, {"recompute": True, "class_weights": "a=3"}),
    "shared layers": ("classify", "albert", {}),
    "lora": ("classify", None, {"train": "lora"}),
    "gradual unfreezing": ("classify", None, {"unfreeze_every": 0.3, "epochs": 1.5}),
    "translate": ("translate", None, {"max_target_length": 7}),
}


def compare(folder, model_folder, cases, size):
    """Each case in so many processes, with the weights spread or not, equals the same in one process."""
    runs, alone = {}, {}
    for name, (task, family, fields) in cases.items():
        case = model_folder(family or READERS.get(task, "bert")), rows_of(task, folder), task, fields
        alone[name] = outcome(case, checkpoints=folder / name)
        for shard in (False, True):
            there = folder / f"{name} {shard}"
            runs[name, shard, "whole"] = case, {"shard": shard, "checkpoints": there}
            runs[name, shard, "gone on"] = case, {"shard": shard, "checkpoint": folder / name / "step-000001"}
    for (name, _, part), found in in_processes(size, folder / "processes", runs).items():
        check(found, alone[name], (name, part))
    for name, shard in {key[:2] for key in runs}:
        case = runs[name, shard, "whole"][0]
        check(outcome(case, checkpoint=folder / f"{name} {shard}" / "step-000001"), alone[name], (name, "back to one"))


def check(found, expected, name):
    """One that has gone on has made the last steps alone."""
    done = expected["numbers"][-len(found["numbers"]) :]
    assert found["numbers"] == pytest.approx(done, rel=1e-11), name
    assert found["weights"].keys() == expected["weights"].keys()
    for weight, x in found["weights"].items():
        torch.testing.assert_close(x, expected["weights"][weight], rtol=0, atol=1e-11, msg=f"{name}: {weight}")
    assert found["scores"] == pytest.approx(expected["scores"], rel=1e-11, nan_ok=True), name


def test_two_processes_give_what_one_gives(model_folder, tmp_path):
    """And one goes on from a checkpoint of two, and two from one of one; each process has written its share."""
    compare(tmp_path, model_folder, CASES, 2)
    assert sorted(path.name for path in (tmp_path / "lm True" / "step-000001").iterdir()) == [
        "manifest.json",
        *(f"optimizer-0000{rank}.safetensors" for rank in (0, 1)),
        "state.json",
        *(f"weights-0000{rank}.safetensors" for rank in (0, 1)),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3])
def test_more_processes_and_kinds_of_runs(model_folder, tmp_path, size):
    compare(tmp_path, model_folder, CASES | MORE, size)


def start_torchrun(*arguments, processes=2):
    """`torchrun -m minitransformer finetune` with these arguments."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, "-m", "minitransformer", "finetune", *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip


@pytest.fixture
def table(tmp_path, rows):
    path = tmp_path / "rows.csv"
    path.write_text("text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in rows))
    return path


def test_torchrun_from_start_to_finish(small_bert, table, tmp_path):
    """One folder, and of two processes one voice."""
    process = start_torchrun(small_bert, table, "--out", tmp_path / "out", "--batch-size", 33, "--epochs", 1, "--shard")
    said, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert said.count("saved in") == 1
    assert errors.count("(best)") == 1
    assert json.loads((tmp_path / "out" / "environment.json").read_text())["processes"] == 2
    assert transformers_labels(tmp_path / "out", ["good film"])


@pytest.mark.slow
def test_a_row_that_cannot_be_used_is_told_once(small_bert, table, tmp_path):
    table.write_text("text,label\n,positive\n" + table.read_text())
    process = start_torchrun(small_bert, table, "--out", tmp_path / "out")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert errors.count("minitransformer: ") == 1
    assert "rows.csv, line 2" in errors


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_all_at_the_same_step_and_the_run_goes_on(small_bert, table, tmp_path, number):
    given = (small_bert, table, "--batch-size", 4, "--epochs", 9, "--evaluate-every", 9)
    start_torchrun(*given, "--out", tmp_path / "whole").communicate(timeout=200)
    process = start_torchrun(*given, "--out", tmp_path / "out")
    log = tmp_path / "out" / "log.jsonl"
    while not log.exists() or len(log.read_text().splitlines()) < 5:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert errors.count("stopped by signal") == 1
    last = json.loads(log.read_text().splitlines()[-1])
    assert last["event"] == "saved"
    assert [path.name for path in (tmp_path / "out" / "checkpoints").iterdir()] == [f"step-{last['step']:06d}"]
    start_torchrun("--resume", tmp_path / "out").communicate(timeout=200)
    whole, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "out"))
    assert all(torch.equal(x, whole[name]) for name, x in resumed.items())


@pytest.mark.slow
def test_a_process_that_is_killed_ends_the_run(small_bert, table, tmp_path):
    process = start_torchrun(small_bert, table, "--out", tmp_path / "out", "--epochs", 500)
    log = tmp_path / "out" / "log.jsonl"
    while not log.exists() or not log.read_text():
        assert process.poll() is None
        time.sleep(0.01)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "minitransformer: another process of this run has ended" in errors
