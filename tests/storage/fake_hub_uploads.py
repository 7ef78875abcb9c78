"""The side of a hub that takes uploads, on this machine: what was committed, and refusals on demand."""

import base64
import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class UploadHub(ThreadingHTTPServer):
    """`files`: what the commits hold, by repository. `refuse`: "POST /path" -> the status that is answered there."""

    daemon_threads = True

    def __init__(self, refuse=None, role="write"):
        super().__init__(("127.0.0.1", 0), Handler)
        self.refuse, self.role = refuse or {}, role
        self.seen, self.files, self.stored, self.made, self.messages = [], {}, {}, [], []

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"

    def written(self):
        """The requests that change something."""
        return [request for request in self.seen if not request.startswith("GET")]


class Handler(BaseHTTPRequestHandler):
    server: UploadHub

    def do_GET(self):
        self.answer("GET", b"")

    def do_POST(self):
        self.answer("POST", self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def do_PUT(self):
        self.answer("PUT", self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def answer(self, method, body):
        path = self.path.split("?")[0]
        self.server.seen.append(f"{method} {path}")
        status = self.server.refuse.get(f"{method} {path}")
        found = {"error": "no"} if status else self.found(path, body)
        data = json.dumps(found).encode()
        self.send_response(status or (404 if found is None else 200))
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(data)

    def found(self, path, body):
        hub = self.server
        if path == "/api/whoami-v2":
            token = {"accessToken": {"role": hub.role}}
            return {"name": "ada", "orgs": [{"name": "engines"}], "auth": token}
        if path == "/api/repos/create":
            hub.made.append(json.loads(body))
            return {"url": f"{hub.address}/ada/film"}
        if path == "/api/validate-yaml":
            return {"errors": [], "warnings": []}
        if path.startswith("/stored/"):
            hub.stored[path.removeprefix("/stored/")] = body
            return {}
        if "/preupload/" in path:
            large = [(each["path"], each["path"].endswith(".safetensors")) for each in json.loads(body)["files"]]
            modes = [{"path": name, "uploadMode": "lfs" if is_large else "regular"} for name, is_large in large]
            return {"files": [{**each, "shouldIgnore": False} for each in modes]}
        if path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            place = {each["oid"]: {"upload": {"href": f"{hub.address}/stored/{each['oid']}"}} for each in objects}
            return {"transfer": "basic", "objects": [{**each, "actions": place[each["oid"]]} for each in objects]}
        if "/commit/" in path:
            self.commit(path.removeprefix("/api/models/").partition("/commit/")[0], body)
            return {"commitUrl": f"{hub.address}/ada/film/commit/{COMMIT}", "commitOid": COMMIT}
        return None

    def commit(self, repo, body):
        files = self.server.files.setdefault(repo, {})
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                self.server.messages.append(value["summary"])
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                content = self.server.stored[value["oid"]]
                assert hashlib.sha256(content).hexdigest() == value["oid"]
                files[value["path"]] = content

    def log_message(self, *_args):
        pass


@contextmanager
def upload_hub(**options):
    """A hub that takes uploads until the end of the `with` block."""
    server = UploadHub(**options)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
