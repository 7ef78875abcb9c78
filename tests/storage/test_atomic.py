"""atomic_folder: at every moment, whatever happens, the old checkpoint or the new one can be loaded."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from storage_helpers import run_python

import minitransformer
from minitransformer.errors import MiniTransformerError, NotFoundError
from minitransformer.storage import atomic, atomic_folder, open_checkpoint, resolve, save_tensors

FILES = ("model.safetensors", "config.json", "vocab.txt", "1_Pooling/config.json")


def write_version(folder, version, files=FILES):
    """A stand-in for a checkpoint: each of its files tells the version."""
    for name in files:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(version)


def save(target, version, files=FILES):
    with atomic_folder(target) as folder:
        write_version(folder, version, files)


def versions(target):
    """The versions found in the checkpoint that `resolve` leads to: one, or there is a mixture."""
    return {(resolve(target) / name).read_text() for name in FILES}


def hidden(folder):
    return [path.name for path in folder.rglob(".*")]


# --- when all goes well -----------------------------------------------------------------------------------------------


def test_a_new_target_appears_at_once(tmp_path):
    target = tmp_path / "model"
    with atomic_folder(target) as folder:
        assert folder.parent == tmp_path
        assert folder.name.startswith(".")
        write_version(folder, "1")
        assert not target.exists()
    assert versions(target) == {"1"}
    assert not hidden(tmp_path)


def test_an_existing_target_keeps_what_is_not_ours(tmp_path):
    save(tmp_path / "model", "1")
    (tmp_path / "model" / "README.md").write_text("mine")
    (tmp_path / "model" / "logs").mkdir()
    (tmp_path / "model" / "logs" / "a.txt").write_text("mine")
    with atomic_folder(tmp_path / "model") as folder:
        write_version(folder, "2")
        assert versions(tmp_path / "model") == {"1"}
    assert versions(tmp_path / "model") == {"2"}
    assert (tmp_path / "model" / "README.md").read_text() == "mine"
    assert (tmp_path / "model" / "logs" / "a.txt").read_text() == "mine"
    assert not hidden(tmp_path)


def test_saving_into_the_working_folder_and_through_a_link(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    save(".", "1")
    save("link", "2")
    assert versions(Path(os.curdir)) == {"1"}
    assert (tmp_path / "link").is_symlink()
    assert versions(tmp_path / "real") == {"2"}


def test_the_target_is_where_it_was_when_the_save_began(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with atomic_folder("model") as folder:
        os.chdir("elsewhere")
        write_version(folder, "1")
    assert versions(tmp_path / "model") == {"1"}


def test_weights_of_an_earlier_save_do_not_stay_beside_new_ones(tmp_path):
    shards = ("model.safetensors.index.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    save(tmp_path, "1", (*FILES, "pytorch_model.bin"))
    save(tmp_path, "2", (*FILES[1:], *shards))
    assert not (tmp_path / "model.safetensors").exists()
    save(tmp_path, "3", ("vocab.txt",))  # without weights: those that are there stay
    assert (tmp_path / shards[0]).read_text() == "2"
    save(tmp_path, "4")
    assert not any((tmp_path / name).exists() for name in shards)
    assert (tmp_path / "pytorch_model.bin").read_text() == "1"  # not a name that we ever write


def test_permissions_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        save(tmp_path / "model", "1")
    finally:
        os.umask(before)
    assert (tmp_path / "model").stat().st_mode & 0o777 == 0o750


def test_a_file_system_without_links(tmp_path, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    save(tmp_path / "model", "1")
    monkeypatch.setattr(os, "link", refuse)
    save(tmp_path / "model", "2")
    assert versions(tmp_path / "model") == {"2"}
    assert not hidden(tmp_path)


def test_a_drive_that_cannot_flush(tmp_path, monkeypatch):
    def refuse(_handle):
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", refuse)
    save(tmp_path / "model", "1")
    assert versions(tmp_path / "model") == {"1"}


def test_a_model_loaded_from_the_target_is_not_touched_by_the_save(tmp_path):
    with atomic_folder(tmp_path / "model") as folder:
        save_tensors({"w": torch.ones(100_000)}, folder / "model.safetensors")
    with open_checkpoint(tmp_path / "model") as weights:
        loaded = weights.read("w")
    with atomic_folder(tmp_path / "model") as folder:
        save_tensors({"w": loaded * 2}, folder / "model.safetensors")
    assert loaded.unique().tolist() == [1.0]
    assert load_file(tmp_path / "model" / "model.safetensors")["w"].unique().tolist() == [2.0]


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", [RuntimeError("no"), KeyboardInterrupt(), SystemExit(1)])
@pytest.mark.parametrize("exists", [True, False])
def test_an_exception_in_the_middle_changes_nothing(tmp_path, failure, exists):
    target = tmp_path / "model"
    if exists:
        save(target, "1")

    def fail():
        with atomic_folder(target) as folder:
            write_version(folder, "2", FILES[:2])
            raise failure

    with pytest.raises(type(failure)):
        fail()
    assert not hidden(tmp_path)
    assert versions(target) == {"1"} if exists else not target.exists()


def test_places_where_nothing_can_be_saved(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(MiniTransformerError, match="it is a file"):
        save(tmp_path / "file", "1")
    with pytest.raises(NotFoundError, match=r"no folder .*nowhere; create it first"):
        save(tmp_path / "nowhere" / "model", "1")
    with pytest.raises(NotFoundError, match="no folder"):
        save(tmp_path / "file" / "model", "1")
    for length in (255, 300):
        with pytest.raises(MiniTransformerError, match="File name too long"):
            save(tmp_path / ("x" * length), "1")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_that_may_not_be_written(tmp_path):
    if os.getuid() == 0:
        pytest.skip("root may write everywhere")
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(MiniTransformerError, match="Permission denied"):
            save(tmp_path / "model", "1")
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize("call", ["mkdir", "fsync", "rename"])
@pytest.mark.parametrize("exists", [True, False])
def test_a_full_disk_is_told_and_leaves_the_old_checkpoint(tmp_path, monkeypatch, call, exists):
    def full(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    target = tmp_path / "model"
    if exists:
        save(target, "1")
    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(MiniTransformerError, match=r"cannot save to .*model: No space left on device"):
            save(target, "2")
    assert not hidden(tmp_path)
    assert versions(target) == {"1"} if exists else not target.exists()


def test_a_full_disk_while_the_files_are_put_in_place(tmp_path, monkeypatch):
    def full(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    save(tmp_path / "model", "1")
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(MiniTransformerError, match="No space left on device"):
            save(tmp_path / "model", "2")
    assert versions(tmp_path / "model") == {"2"}
    save(tmp_path / "model", "3")
    assert versions(tmp_path / "model") == {"3"}
    assert not hidden(tmp_path)


def test_ctrl_c_while_the_files_are_put_in_place(tmp_path, monkeypatch):
    replace, calls = os.replace, []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        replace(*args)

    save(tmp_path / "model", "1")
    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path / "model", "2")
    assert {(tmp_path / "model" / name).read_text() for name in FILES} == {"2"}
    assert not hidden(tmp_path)


# --- leftovers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exists", [True, False])
def test_leftovers_of_dead_processes_go_and_nothing_else(tmp_path, exists):
    target = tmp_path / "model"
    if exists:
        save(target, "1")
    place = target if exists else tmp_path
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    gone = [f".model.minitransformer-{dead.pid}", f".model.minitransformer-{os.getpid()}"]
    kept = [f".model.minitransformer-{os.getppid()}", f".other.minitransformer-{dead.pid}", ".model.minitransformer-x"]
    for name in gone + kept:
        (place / name).mkdir()
        (place / name / "model.safetensors").write_text("half")
    save(target, "2")
    assert sorted(hidden(tmp_path)) == sorted(kept)


def test_a_link_in_the_place_of_an_interrupted_save_is_not_followed(tmp_path):
    (tmp_path / "private").mkdir()
    save(tmp_path / "model", "1")
    (tmp_path / "model" / atomic.SAVED).symlink_to(tmp_path / "private")
    assert resolve(tmp_path / "model") == tmp_path / "model"


# --- kill -9 ----------------------------------------------------------------------------------------------------------

CRASH_AT_EVERY_CALL = """
import os, sys
from pathlib import Path
from minitransformer.storage import atomic_folder
root, files, exists = Path(sys.argv[1]), sys.argv[3].split(), sys.argv[2] == "True"

def save(target, version):
    with atomic_folder(target) as folder:
        for name in files:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(version)

def crash_at(number):
    left = [number]
    def patched(call):
        def counted(*args, **kwargs):
            left[0] -= 1
            if left[0] < 0:
                os._exit(9)                    # nothing is cleaned up, as with kill -9
            return call(*args, **kwargs)
        return counted
    for name in ("mkdir", "rename", "replace", "link", "unlink", "rmdir", "fsync", "open", "close"):
        setattr(os, name, patched(getattr(os, name)))

number, crashed = 0, True
while crashed:
    target = root / f"model{number}"
    if exists:
        save(target, "1")
        (target / "README.md").write_text("mine")
    child = os.fork()
    if child == 0:
        crash_at(number)
        save(target, "2")
        os._exit(0)
    crashed = os.waitpid(child, 0)[1] != 0
    number += 1
print(number)
"""


@pytest.mark.parametrize("exists", [True, False])
def test_a_crash_at_any_system_call_leaves_the_old_or_the_new(tmp_path, exists):
    done = run_python(CRASH_AT_EVERY_CALL, tmp_path, exists, " ".join(FILES), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    outcomes = []
    for number in range(int(done.stdout)):
        target = tmp_path / f"model{number}"
        outcomes.append(versions(target) if target.exists() else None)
        save(target, "3")
        assert versions(target) == {"3"}
        assert {(target / name).read_text() for name in FILES} == {"3"}
        assert not exists or (target / "README.md").read_text() == "mine"
    assert not hidden(tmp_path)
    old, new = outcomes.count({"1"} if exists else None), outcomes.count({"2"})
    assert old + new == len(outcomes)
    assert old > 5
    assert new >= (10 if exists else 2)


def test_real_kills_in_the_middle_of_saving(tmp_path):
    script = """
import sys
from minitransformer.storage import atomic_folder
version = 0
while True:
    version += 1
    with atomic_folder(sys.argv[1]) as folder:
        (folder / "model.safetensors").write_text(f"{version:6}" * 500_000)
        (folder / "config.json").write_text(f"{version:6}")
    print(version, flush=True)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(minitransformer.__file__).parents[1])}
    target = tmp_path / "model"
    for attempt in range(6):
        command = [sys.executable, "-c", script, str(target)]
        with subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=subprocess.PIPE) as child:
            child.stdout.readline()
            time.sleep(0.007 * attempt)
            child.send_signal(signal.SIGKILL)
        folder = resolve(target)
        assert (folder / "model.safetensors").read_text() == (folder / "config.json").read_text() * 500_000
    save(target, "1")
    assert not hidden(tmp_path)
