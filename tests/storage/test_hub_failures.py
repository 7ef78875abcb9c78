"""Downloads that break: each ends in a sound file or in one clear line, and never in a half file in the cache."""

import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from itertools import repeat
from pathlib import Path

from fake_hub import (
    COMMIT,
    IMPATIENT,
    SCRIPT,
    Repo,
    ask,
    ask_with_pauses,
    change,
    check_cache,
    fake_hub,
    headers,
    hub_environment,
    present,
    status,
)

import minitransformer

WEIGHTS = random.Random(0).randbytes(3000)  # a download does not look inside
FILES = {"config.json": b"{}", "model.safetensors": WEIGHTS}
MODEL, CONFIG = "model.safetensors", "config.json"


def repo(files=FILES):
    return Repo({COMMIT: files})


def other(answer):
    """The same length, and one bit is another."""
    return change(body=bytes([answer.body[0] ^ 1]) + answer.body[1:])(answer)


def hang_up(_answer):
    """The connection ends before a word was said."""
    raise ConnectionResetError


WRONG_ETAG = f'"{hashlib.sha256(b"other").hexdigest()}"'
CLOSED = "cannot be reached"
NOT_AS_ANNOUNCED = "what arrived is not what the hub announced; try again"
DAMAGED = "it arrived damaged"
BUSY = "too many requests"
FAULTS = {  # (method, file, fault of every request): words of the error
    "closed-at-once": ("GET", MODEL, hang_up, CLOSED),
    "closed-after-the-headers": ("GET", MODEL, change(cut=0), CLOSED),
    "closed-before-the-headers": ("HEAD", MODEL, hang_up, CLOSED),
    "stalled": ("GET", MODEL, change(cut=100, stall=True), CLOSED),
    "stalled-headers": ("HEAD", MODEL, change(silent=True), CLOSED),
    "no-headers": ("HEAD", MODEL, status(200), NOT_AS_ANNOUNCED),
    "longer-than-announced": ("GET", MODEL, lambda answer: change(body=answer.body + b"x")(answer), NOT_AS_ANNOUNCED),
    "shorter-than-announced": ("GET", MODEL, lambda answer: change(body=answer.body[:-1])(answer), NOT_AS_ANNOUNCED),
    "empty": ("GET", MODEL, change(body=b""), NOT_AS_ANNOUNCED),
    "announced-too-long": ("HEAD", MODEL, headers(X_Linked_Size="3001"), NOT_AS_ANNOUNCED),
    "announced-too-short": ("HEAD", MODEL, headers(X_Linked_Size="2999"), NOT_AS_ANNOUNCED),
    "wrong-etag": ("HEAD", MODEL, headers(ETag=WRONG_ETAG), DAMAGED),
    "one-bit": ("GET", MODEL, other, DAMAGED),
    "no-etag": ("HEAD", MODEL, headers(ETag=None), NOT_AS_ANNOUNCED),
    "no-commit": ("HEAD", MODEL, headers(X_Repo_Commit=None), NOT_AS_ANNOUNCED),
    "commit-elsewhere": ("HEAD", MODEL, headers(X_Repo_Commit="../../../../evil"), "ValueError"),
    "config-closed": ("GET", CONFIG, hang_up, CLOSED),
    "config-shorter": ("GET", CONFIG, change(body=b"{"), NOT_AS_ANNOUNCED),
    "listed-and-missing": ("HEAD", MODEL, status(404, X_Error_Code="EntryNotFound"), "does not have this file"),
    "missing-at-last": ("GET", MODEL, status(404, X_Error_Code="EntryNotFound"), "does not have this file"),
    "deleted-meanwhile": ("HEAD", MODEL, status(404, X_Error_Code="RepoNotFound"), "no such public model"),
    "closed-meanwhile": ("GET", MODEL, status(401, X_Error_Code="RepoNotFound"), "no such public model"),
    "gated-file": ("GET", MODEL, status(403, X_Error_Code="GatedRepo"), "access is restricted"),
    **{
        f"{number}-{method}": (method, MODEL, status(number), BUSY if number == 429 else f"HTTP status {number}")
        for number in (403, 404, 429, 500, 503)
        for method in ("HEAD", "GET")
    },
}


def test_every_fault_in_the_middle_is_one_line_and_leaves_nothing_half(tmp_path):
    names = [f"org/{name}" for name in FAULTS]
    with fake_hub(dict.fromkeys(names, repo())) as hub:
        for name, (method, file, fault, _) in zip(names, FAULTS.values(), strict=True):
            hub.fail(f"{method} {name}/{file}", *repeat(fault, 100))
        answers, pauses = ask_with_pauses(tmp_path, hub.address, *names, timeout=120, **IMPATIENT)
        for (answer, _), name, (_, file, _, words) in zip(answers, names, FAULTS.values(), strict=True):
            assert answer[0] == "HubError", (name, answer)
            assert answer[1].startswith(f"{name}: {file}: "), answer
            assert words in answer[1], (name, answer)
            assert "try again" in answer[1] or "package:NAME" in answer[1], answer
            assert answer[1].isprintable(), answer
        check_cache(tmp_path)
        assert max(pauses) <= 8
        assert {path.name for path in tmp_path.iterdir()} == {"hf"}

        # What came so far is no use offline, and says so.
        for answer, _ in ask(tmp_path, hub.address, *names, HF_HUB_OFFLINE="1"):
            assert "not in the cache" in answer[1] or "the copy in the cache" in answer[1] or "only a part" in answer[1]

        hub.faults.clear()
        for name, (folder, told) in zip(names, ask(tmp_path, hub.address, *names), strict=True):
            assert told == [], name
            assert {file: (Path(folder) / file).read_bytes() for file in FILES} == FILES, name
    check_cache(tmp_path)


def test_without_a_length_a_half_file_is_still_found_out(tmp_path):
    with fake_hub({"org/x": repo()}) as hub:
        hub.fail("HEAD org/x/model.safetensors", headers(Content_Length=None))
        hub.fail("GET org/x/model.safetensors", lambda answer: change(cut=1500)(headers(Content_Length=None)(answer)))
        (broken, _), (folder, _) = ask(tmp_path, hub.address, "org/x", "org/x")
    assert DAMAGED in broken[1]
    assert (Path(folder) / MODEL).read_bytes() == WEIGHTS


# --- going on where it broke ------------------------------------------------------------------------------------------

LARGE = random.Random(1).randbytes(21 * 2**20)  # the client counts what has come in pieces of 10 MiB


def test_a_broken_download_goes_on_where_it_broke(tmp_path):
    with fake_hub({"org/x": repo({**FILES, MODEL: LARGE})}) as hub:
        sent = []

        def cut(answer):
            answer = change(cut=10 * 2**20 + 5000)(answer)
            sent.append(answer)
            return answer

        def whole(answer):
            sent.append(answer)
            return answer

        hub.fail(f"GET org/x/{MODEL}", cut, cut, whole)
        ((folder, told),) = ask(tmp_path, hub.address, "org/x")
        ranges = [seen.headers.get("Range") for seen in hub.seen if seen.method == "GET" and seen.name == MODEL]
    assert told == []
    assert ranges == [None, f"bytes={10 * 2**20}-", f"bytes={20 * 2**20}-"]
    assert [answer.status for answer in sent] == [200, 206, 206]
    assert [len(answer.body) for answer in sent] == [21 * 2**20, 11 * 2**20, 2**20]  # the rest, and nothing twice
    assert (Path(folder) / MODEL).read_bytes() == LARGE
    check_cache(tmp_path)


def test_a_server_that_cannot_go_on_sends_it_whole_again(tmp_path):
    def whole(answer):
        return change(status=200, body=LARGE, headers={**answer.headers, "Content-Range": None})(answer)

    with fake_hub({"org/x": repo({**FILES, MODEL: LARGE})}) as hub:
        hub.fail(f"GET org/x/{MODEL}", change(cut=15 * 2**20), whole)
        ((folder, _),) = ask(tmp_path, hub.address, "org/x")
    assert (Path(folder) / MODEL).read_bytes() == LARGE


def test_a_server_that_goes_on_with_something_else_is_found_out(tmp_path):
    with fake_hub({"org/x": repo({**FILES, MODEL: LARGE})}) as hub:
        hub.fail(f"GET org/x/{MODEL}", change(cut=15 * 2**20), other)
        (broken, _), (folder, _) = ask(tmp_path, hub.address, "org/x", "org/x")
    assert DAMAGED in broken[1]
    assert (Path(folder) / MODEL).read_bytes() == LARGE


def test_a_second_load_fetches_only_the_files_that_are_missing(tmp_path):
    shards = {f"model-0000{number}-of-00003.safetensors": bytes([number]) * 1000 for number in (1, 2, 3)}
    index = json.dumps({"weight_map": {name: name for name in shards}}).encode()
    with fake_hub({"org/x": repo({CONFIG: b"{}", "model.safetensors.index.json": index, **shards})}) as hub:
        hub.fail("GET org/x/model-00002-of-00003.safetensors", status(500))
        ((broken, _),) = ask(tmp_path, hub.address, "org/x")
        assert broken[1].startswith("org/x: model-00002-of-00003.safetensors: the hub refused with HTTP status 500")
        hub.seen.clear()
        ((folder, _),) = ask(tmp_path, hub.address, "org/x")
        assert hub.files() == ["model-00002-of-00003.safetensors", "model-00003-of-00003.safetensors"]
    assert all((Path(folder) / name).read_bytes() == data for name, data in shards.items())


def half_fetched(folder):
    """Whether a part of the large file has come; the small ones are there under such a name for a moment, too.

    Only this folder is looked into: the client makes and removes others while we look.
    """
    for file in (folder / "hf/hub/models--org--x/blobs").glob("*.incomplete"):
        with contextlib.suppress(FileNotFoundError):
            if file.stat().st_size > 2**20:
                return True
    return False


def test_a_process_that_is_killed_in_the_middle(tmp_path):
    with fake_hub({"org/x": repo({**FILES, MODEL: LARGE})}) as hub:
        hub.fail(f"GET org/x/{MODEL}", change(cut=15 * 2**20, stall=True))
        variables = hub_environment(tmp_path, hub.address)
        environment = {**os.environ, **variables, "PYTHONPATH": str(Path(minitransformer.__file__).parents[1])}
        command = [sys.executable, "-c", SCRIPT, '[{"args": ["org/x"]}]']
        with subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=subprocess.PIPE) as child:
            while not half_fetched(tmp_path):
                assert child.poll() is None
                time.sleep(0.01)
            child.send_signal(signal.SIGKILL)
        assert half_fetched(tmp_path)
        ((offline, _),) = ask(tmp_path, hub.address, "org/x", HF_HUB_OFFLINE="1")
        assert offline[0] == "HubError"
        assert "not in the cache" in offline[1]
        ((folder, _),) = ask(tmp_path, hub.address, "org/x")
    assert (Path(folder) / MODEL).read_bytes() == LARGE


# --- pauses, and another host -----------------------------------------------------------------------------------------


def test_a_pause_that_the_hub_asks_for_is_made(tmp_path):
    with fake_hub({"org/head": repo(), "org/get": repo()}) as hub:
        hub.fail(f"HEAD org/head/{MODEL}", *repeat(status(429, Retry_After="7"), 2))
        hub.fail(f"GET org/get/{MODEL}", *repeat(status(429, Retry_After="7"), 2))
        answers, pauses = ask_with_pauses(tmp_path, hub.address, "org/head", "org/get")
    assert all((Path(folder) / MODEL).read_bytes() == WEIGHTS for folder, _ in answers)
    assert pauses == [8, 8, 8]  # one second is added; the first repetition of a HEAD comes without a pause


def test_large_files_come_from_another_host_which_is_not_given_the_token(tmp_path):
    repos = {"org/x": repo({**FILES, MODEL: LARGE})}
    with fake_hub(repos) as hub, fake_hub(repos) as storage:
        hub.storage = storage
        storage.fail(f"GET org/x/{MODEL}", change(cut=15 * 2**20))
        ((folder, told),) = ask(tmp_path, hub.address, "org/x")
        assert told == []
        assert (Path(folder) / MODEL).read_bytes() == LARGE
        assert all(seen.headers["Authorization"] == "Bearer hf_secret_of_the_user" for seen in hub.seen if seen.repo)
        assert [seen.headers.get("Range") for seen in storage.seen] == [None, f"bytes={10 * 2**20}-"]
        assert not [seen for seen in storage.seen if "hf_secret" in str(seen.headers)]
        assert hub.files() == [CONFIG]


def test_a_host_for_large_files_that_fails(tmp_path):
    names = ["org/refused", "org/gone", "org/other", "org/longer"]
    with fake_hub(dict.fromkeys(names, repo())) as hub, fake_hub(hub.repos) as storage:
        hub.storage = storage
        storage.fail("GET org/refused/model.safetensors", status(403))
        storage.fail("GET org/gone/model.safetensors", status(404))
        storage.fail("GET org/other/model.safetensors", other)
        storage.fail("GET org/longer/model.safetensors", change(body=WEIGHTS * 2))
        answers = ask(tmp_path, hub.address, *names)
        for (answer, _), words in zip(answers, ["status 403", "status 404", DAMAGED, NOT_AS_ANNOUNCED], strict=True):
            assert answer[0] == "HubError"
            assert words in answer[1], answer
        check_cache(tmp_path)
        assert all(present(folder) == set(FILES) for folder, _ in ask(tmp_path, hub.address, *names))
