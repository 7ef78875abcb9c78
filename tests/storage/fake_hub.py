"""A hub on this machine, for tests: repositories as data, every request on record, and faults on demand."""

import hashlib
import json
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from storage_helpers import run_python

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NEXT = "89abcdef0123456789abcdef0123456789abcdef"


@dataclass
class Repo:
    """What a repository holds at each commit, where its branches and tags stand, and what its listing claims."""

    commits: dict[str, dict[str, bytes]]
    revisions: dict[str, str] = field(default_factory=lambda: {"main": COMMIT})
    listing: Callable[[dict[str, bytes]], Iterable] = list


@dataclass(frozen=True)
class Seen:
    """A request that came."""

    method: str
    repo: str
    revision: str
    name: str  # of a file; "" where the question was what the repository holds
    headers: Message


@dataclass(frozen=True)
class Answer:
    """What is answered; a fault makes another one of it."""

    status: int
    body: bytes
    headers: dict[str, str]
    cut: int | None = None  # the connection breaks after so many bytes of the body
    stall: bool = False  # ... or nothing more comes, and it stays open
    silent: bool = False  # it stays open, and nothing comes at all


def status(number, **headers):
    """A fault: another status."""
    return lambda _answer: Answer(number, b"", {name.replace("_", "-"): value for name, value in headers.items()})


def change(**changes):
    """A fault: some other fields of the answer."""
    return lambda answer: replace(answer, **changes)


def headers(**changes):
    """A fault: some other headers. None takes one away."""
    changes = {name.replace("_", "-"): value for name, value in changes.items()}
    return lambda answer: replace(answer, headers={**answer.headers, **changes})


class Hub(ThreadingHTTPServer):
    """The hub's side of a download. `faults`: "GET org/name/file" -> the faults of the first, second, … request."""

    daemon_threads = True

    def __init__(self, repos):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos: dict[str, Repo] = repos
        self.seen: list[Seen] = []
        self.faults: dict[str, Iterator] = {}
        self.storage: Hub | None = None  # another host, to which the hub sends for large files
        self.stop = threading.Event()

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"

    def fail(self, request, *faults):
        """Let the next requests of this kind fail in these ways, one after the other."""
        self.faults[request] = iter(faults)

    def files(self, method="GET"):
        """The files that were asked for, in order."""
        return [seen.name for seen in self.seen if seen.method == method and seen.name]

    def handle_error(self, *_args):
        """A client that goes away in the middle is no news."""


class Handler(BaseHTTPRequestHandler):
    """/api/models/ORG/NAME[/revision/REVISION], /ORG/NAME/resolve/REVISION/FILE and, on the storage host, /stored/…"""

    server: Hub

    def do_GET(self):
        parts = self.path.split("?")[0].strip("/").split("/")
        kind = parts[0] if parts[0] in ("api", "stored") else ""
        parts = parts[{"api": 2, "stored": 1}.get(kind, 0) :]
        cut = next((at for at, part in enumerate(parts) if part in ("revision", "resolve")), len(parts))
        repo, revision, name = "/".join(parts[:cut]), "".join(parts[cut + 1 : cut + 2]), "/".join(parts[cut + 2 :])
        self.server.seen.append(Seen(self.command, repo, revision, name, self.headers))
        answer = self.answer(kind, repo, revision, name)
        key = f"{self.command} {repo}/{name}" if name else repo
        fault = next(self.server.faults.get(key, iter(())), None)
        self.send(fault(answer) if fault else answer)

    do_HEAD = do_GET  # noqa: N815

    def answer(self, kind, repo, revision, name):
        if repo not in self.server.repos:  # the client also looks for news now and then
            return status(404, X_Error_Code="RepoNotFound")(None)
        found = self.server.repos[repo]
        commit = found.revisions.get(revision or "main", revision)
        if commit not in found.commits:
            return status(404, X_Error_Code="RevisionNotFound")(None)
        files = found.commits[commit]
        if kind == "api":
            siblings = [{"rfilename": name} for name in found.listing(files)]
            return Answer(200, json.dumps({"id": repo, "sha": commit, "siblings": siblings}).encode(), {})
        if name not in files:
            return status(404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)(None)
        body = files[name]
        facts = {"X-Repo-Commit": commit, "ETag": etag(name, body)}
        if self.server.storage and name.endswith(".safetensors"):
            facts = {"X-Repo-Commit": commit, "X-Linked-ETag": etag(name, body), "X-Linked-Size": str(len(body))}
            place = f"{self.server.storage.address}/stored/{repo}/resolve/{commit}/{name}"
            return Answer(302, b"elsewhere", {**facts, "Location": place})
        begin = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        if begin:
            facts["Content-Range"] = f"bytes {begin}-{len(body) - 1}/{len(body)}"
        return Answer(206 if begin else 200, body[begin:], facts)

    def send(self, answer):
        if answer.silent:
            self.server.stop.wait(100)
            return
        self.send_response(answer.status)
        for name, value in {"Content-Length": str(len(answer.body)), **answer.headers}.items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(answer.body[: answer.cut])
        if answer.stall:
            self.wfile.flush()
            self.server.stop.wait(100)

    def log_message(self, *_args):
        pass


def etag(name, body):
    """As the hub gives it: the sha256 of a large file, git's own digest of a small one."""
    if name.endswith((".safetensors", ".bin")):
        return f'"{hashlib.sha256(body).hexdigest()}"'
    return f'"{hashlib.sha1(b"blob %d" % len(body) + bytes(1) + body).hexdigest()}"'


@contextmanager
def fake_hub(repos):
    """A hub that serves these repositories until the end of the `with` block."""
    server = Hub(repos)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.stop.set()
        server.shutdown()
        server.server_close()
        thread.join()


def hub_environment(home, endpoint):
    """The settings under which huggingface_hub takes the fake hub for the real one, and `home` for the user's home."""
    return {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home / "hf"),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_ETAG_TIMEOUT": "20",
        "HF_HUB_DOWNLOAD_TIMEOUT": "20",
        "HF_TOKEN": "hf_secret_of_the_user",
        "NO_PROXY": "127.0.0.1",
    }


IMPATIENT = {"PATIENCE": "0.4", "HF_HUB_ETAG_TIMEOUT": "2"}  # for `ask`, where the hub is meant to fall silent

SCRIPT = """
import json, os, sys, time, warnings
from minitransformer.storage import resolve
from huggingface_hub import constants, file_download
if "PATIENCE" in os.environ:
    constants.HF_HUB_DOWNLOAD_TIMEOUT = float(os.environ["PATIENCE"])  # a whole number of seconds in the client's own
    file_download._ETAG_RETRY_TIMEOUT = float(os.environ["PATIENCE"])  # a minute, which no variable changes
pauses = []
time.sleep = pauses.append                       # the pauses between attempts are noted and not made
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
print("ANSWERS" + json.dumps([answers, pauses]))
"""


def ask(home, endpoint, *calls, timeout=60, **variables):
    """[answer, warnings] of each call of `resolve`, in a fresh process: the hub's client reads its settings once."""
    return ask_with_pauses(home, endpoint, *calls, timeout=timeout, **variables)[0]


def ask_with_pauses(home, endpoint, *calls, timeout=60, **variables):
    """The answers, and how many seconds the hub's client wished to wait between its attempts."""
    done = run_python(
        SCRIPT,
        json.dumps([{"args": [call]} if isinstance(call, str) else call for call in calls]),
        cwd=home,
        timeout=timeout,
        **{**hub_environment(home, endpoint), **variables},
    )
    assert "ANSWERS" in done.stdout, done.stderr
    assert "hf_secret" not in done.stdout + done.stderr
    return json.loads(done.stdout.split("ANSWERS")[1])


def present(folder):
    """The names of the files in a folder."""
    return {path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file()}


def check_cache(home):
    """Nothing in the cache is half: every large file has the digest it is kept under, and no link leads nowhere."""
    cache = home / "hf" / "hub"
    assert not list(cache.rglob("*.incomplete"))
    for blob in cache.glob("*/blobs/*"):
        assert len(blob.name) != 64 or hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name
    for file in cache.glob("*/snapshots/*/**/*"):
        assert file.exists(), file
