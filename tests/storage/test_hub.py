"""download, against a small hub on this machine: what is fetched, what is reused, and what every refusal says."""

import hashlib
import json
import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub.constants import ENDPOINT
from safetensors.torch import save
from storage_helpers import run_python
from torch import ones

COMMIT = "0123456789abcdef0123456789abcdef01234567"
WEIGHTS = save({"w": ones(2)})
INDEX = json.dumps({"weight_map": {"w": "model-00001-of-00001.safetensors"}}).encode()
REPOS = {
    "org/single": {
        "config.json": b'{"model_type": "x"}',
        "tokenizer.json": b"{}",
        "model.safetensors": WEIGHTS,
        "model.fp16.safetensors": WEIGHTS,
        "pytorch_model.bin": b"pickle",
        "onnx/model.onnx": b"x",
        "1_Pooling/config.json": b"{}",
        "README.md": b"x",
    },
    "sharded": {
        "config.json": b"{}",
        "model.safetensors.index.json": INDEX,
        "model-00001-of-00001.safetensors": WEIGHTS,
        "extra.safetensors": WEIGHTS,
    },
    "org/traversal": {
        "config.json": b"{}",
        "model.safetensors.index.json": b'{"weight_map": {"w": "../../x.safetensors"}}',
    },
    "org/pickle": {"config.json": b"{}", "pytorch_model.bin": b"pickle"},
    "org/bare": {"README.md": b"x"},
}
REFUSALS = {  # repository: (status, X-Error-Code)
    "org/missing": (404, "RepoNotFound"),
    "org/private": (401, "RepoNotFound"),
    "org/gated": (403, "GatedRepo"),
    "org/broken": (500, ""),
    "org/busy": (429, ""),
}


class FakeHub(BaseHTTPRequestHandler):
    """The three addresses that a download uses: what a model is, and HEAD and GET of a file."""

    def do_GET(self):
        parts = self.path.split("?")[0].strip("/").split("/")
        is_api = parts[:2] == ["api", "models"]
        parts = parts[2:] if is_api else parts
        cut = next((at for at, part in enumerate(parts) if part in ("revision", "resolve")), len(parts))
        repo, revision, name = "/".join(parts[:cut]), "".join(parts[cut + 1 : cut + 2]), "/".join(parts[cut + 2 :])
        self.server.seen.append((self.command, repo, name, self.headers.get("User-Agent", "")))
        if repo in REFUSALS:
            return self.answer(REFUSALS[repo][0], b"", {"X-Error-Code": REFUSALS[repo][1]})
        if repo == "org/stalled":
            self.server.stop.wait(100)
            return None
        if repo not in REPOS:  # the client also looks for news now and then
            return self.answer(404, b"", {})
        if revision not in ("", "main", "v1", COMMIT):
            return self.answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
        files = REPOS[repo]
        if is_api:
            siblings = [{"rfilename": name} for name in files]
            return self.answer(200, json.dumps({"id": repo, "sha": COMMIT, "siblings": siblings}).encode(), {})
        if name not in files:
            return self.answer(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        etag = f'"{hashlib.sha256(files[name]).hexdigest()}"'
        return self.answer(200, files[name], {"X-Repo-Commit": COMMIT, "ETag": etag})

    do_HEAD = do_GET  # noqa: N815

    def answer(self, status, body, headers):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_args):
        pass


@contextmanager
def fake_hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), FakeHub)
    server.daemon_threads = True
    server.seen, server.stop = [], threading.Event()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.stop.set()
        server.shutdown()
        server.server_close()
        thread.join()


SCRIPT = """
import json, sys, warnings
from minitransformer.storage import resolve
answers = []
for call in json.loads(sys.argv[1]):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            answer = str(resolve(*call.get("args", []), **call.get("kwargs", {})))
        except Exception as error:
            answer = [type(error).__name__, str(error)]
    told = [str(w.message) for w in caught if "minitransformer" in str(w.filename) or "cache" in str(w.message)]
    answers.append([answer, told])
print("ANSWERS" + json.dumps(answers))
"""


def ask(tmp_path, endpoint, *calls, timeout=60, **variables):
    """The answers of `resolve` in a fresh process: huggingface_hub reads its settings when it is imported."""
    done = run_python(
        SCRIPT,
        json.dumps([{"args": [call]} if isinstance(call, str) else call for call in calls]),
        cwd=tmp_path,
        timeout=timeout,
        HF_ENDPOINT=endpoint,
        HF_HOME=str(tmp_path / "hf"),
        HF_HUB_DISABLE_PROGRESS_BARS="1",
        HF_HUB_DISABLE_XET="1",
        HF_HUB_ETAG_TIMEOUT="2",
        HF_TOKEN="hf_secret_of_the_user",
        NO_PROXY="127.0.0.1",
        **variables,
    )
    assert "ANSWERS" in done.stdout, done.stderr
    assert "hf_secret" not in done.stdout + done.stderr
    return json.loads(done.stdout.split("ANSWERS")[1])


def unused_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def present(folder):
    return {path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file()}


def test_the_needed_files_come_once_and_then_from_the_cache(tmp_path):
    with fake_hub() as (server, endpoint):
        (single, _), (sharded, _) = ask(tmp_path, endpoint, "org/single", "sharded")
        assert Path(single).name == COMMIT
        assert present(single) == {"config.json", "tokenizer.json", "model.safetensors", "1_Pooling/config.json"}
        assert (Path(single) / "model.safetensors").read_bytes() == WEIGHTS
        assert present(sharded) == set(REPOS["sharded"]) - {"extra.safetensors"}
        assert all("minitransformer/" in agent for _, repo, _, agent in server.seen if repo in REPOS)

        server.seen.clear()
        assert ask(tmp_path, endpoint, {"args": ["org/single"], "kwargs": {"revision": COMMIT}})[0][0] == single
        assert not [request for request in server.seen if request[0] == "GET" and request[2]]  # no file again

    # The hub is gone now. With HF_HUB_OFFLINE that is as wished; without, it is worth a word.
    calls = ["org/single", "sharded", {"args": ["org/single"], "kwargs": {"revision": COMMIT}}]
    answers = ask(tmp_path, endpoint, *calls, HF_HUB_OFFLINE="1")
    assert answers == [[single, []], [sharded, []], [single, []]]
    for (folder, warned), expected in zip(ask(tmp_path, endpoint, *calls), [single, sharded, single], strict=True):
        assert folder == expected
        assert "cannot be reached" in warned[0]
        assert COMMIT in warned[0]


def test_an_incomplete_cache_is_told(tmp_path):
    with fake_hub() as (_, endpoint):
        (single, _), (sharded, _) = ask(tmp_path, endpoint, "org/single", "sharded")
    (Path(single) / "model.safetensors").unlink()
    (Path(sharded) / "model-00001-of-00001.safetensors").unlink()
    (one, _), (two, _) = ask(tmp_path, endpoint, "org/single", "sharded", timeout=20)  # no retries for what is missing
    assert one[0] == "NotFoundError"
    assert "the copy in the cache" in one[1]
    assert two[0] == "HubError"
    assert "only a part" in two[1]


def test_every_refusal_is_one_line_with_a_way_out(tmp_path):
    expected = {
        "org/missing": ("HubError", "no such public model", "HF_TOKEN"),
        "org/private": ("HubError", "no such public model", "HF_TOKEN"),
        "org/gated": ("HubError", "access is restricted", "HF_TOKEN"),
        "org/broken": ("HubError", "status 500", "try again later"),
        "org/busy": ("HubError", "too many requests", "wait"),
        "org/stalled": ("HubError", "cannot be reached", "HF_HUB_OFFLINE"),
        "org/bare": ("HubError", "no config.json", "transformers' layout"),
        "org/pickle": ("UnsafeFileError", "pytorch_model.bin", "allow_pickle=True"),
        "org/traversal": ("UnsafeFileError", "../../x.safetensors", "nothing was opened"),
    }
    unknown = {"args": ["org/single"], "kwargs": {"revision": "no-such-branch"}}
    pickled = {"args": ["org/pickle"], "kwargs": {"allow_pickle": True}}
    with fake_hub() as (_, endpoint):
        *answers, (revision, _), (pickle, _) = ask(tmp_path, endpoint, *expected, unknown, pickled)
    for (repo, (kind, *words)), (answer, _) in zip(expected.items(), answers, strict=True):
        assert answer[0] == kind, answer
        assert repo in answer[1].replace("--", "/"), answer  # org--name is how the cache spells org/name
        assert all(word in answer[1] for word in words), answer
        assert "\n" not in answer[1]
    assert revision == ["HubError", "org/single: it has no revision 'no-such-branch'; check the branch, tag or commit"]
    assert present(pickle) == {"config.json", "pytorch_model.bin"}


def test_no_network_and_nothing_in_the_cache(tmp_path):
    nowhere = f"http://127.0.0.1:{unused_port()}"
    (((kind, text), _),) = ask(tmp_path, nowhere, "org/single")
    assert kind == "HubError"
    assert "org/single: the hub cannot be reached" in text
    assert "package:NAME" in text
    (((kind, text), _),) = ask(tmp_path, nowhere, "org/single", HF_HUB_OFFLINE="1")
    assert kind == "HubError"
    assert "HF_HUB_OFFLINE is set" in text


@pytest.mark.online
def test_the_real_hub(tmp_path):
    answers = ask(tmp_path, ENDPOINT, "hf-internal-testing/tiny-random-bert", HF_TOKEN="")
    assert "config.json" in present(answers[0][0])
