"""Speaks just enough of the Hugging Face Hub's HTTP interface for uploads and downloads; a stand-in on this machine."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest

from helpers.http_body import read_body

TOKEN = "hf_token_of_the_test"
REPO = "somebody/detector"


class HubServer(ThreadingHTTPServer):
    """A Hub with one user. What it holds is in `files`, what it was asked in `commits` and `requests`.

    Args:
        lfs_from: bytes from which a file is to come by git LFS.
    """

    daemon_threads = True

    def __init__(self, lfs_from: int = 10_000):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.lfs_from = lfs_from
        self.repositories: dict[str, dict] = {}  # name -> what it was made with
        self.files: dict[str, bytes] = {}
        self.commits: list[dict] = []
        self.requests: list[str] = []
        self.objects: dict[str, bytes] = {}  # LFS, by sha256
        self.trouble: str | None = None  # "500", "close", or "403" from now on
        self.held = threading.Event()  # requests wait for it
        self.held.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def hub_server(**arguments: int) -> Iterator[HubServer]:
    """A running server."""
    with HubServer(**arguments) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.held.set()
            server.shutdown()
            thread.join()


def log_in(server: HubServer, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """Let this process's huggingface_hub speak to the server, with its user's token and a cache of its own."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.url)
    template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    # It waits 23 s in all between its own attempts.
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)


class _Handler(BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Keep quiet."""

    def _answer(self, status: int, content: object, code: str | None = None) -> None:
        headers = {"Content-Type": "application/json"} | ({"X-Error-Code": code} if code else {})
        self._send(status, json.dumps(content).encode(), headers)

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _handle(self) -> None:
        server, path = self.server, self.path.partition("?")[0]
        body = read_body(self)
        server.requests.append(f"{self.command} {path}")
        server.held.wait(60)
        if server.trouble == "close":
            self.close_connection = True
            return
        if server.trouble is not None:
            self._answer(int(server.trouble), {"error": f"the stand-in is in a state of {server.trouble}"})
        elif path.startswith("/lfs/"):
            digest = path.removeprefix("/lfs/")
            assert hashlib.sha256(body).hexdigest() == digest
            server.objects[digest] = body
            self._answer(200, {})
        elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer(401, {"error": "Invalid username or password."})
        else:
            self._route(path, body)

    do_HEAD = do_GET = do_POST = do_PUT = _handle  # noqa: N815

    def _route(self, path: str, body: bytes) -> None:
        server, api = self.server, f"/api/models/{REPO}"
        if path == "/api/repos/create":
            wanted = json.loads(body)
            name = f"{wanted['organization']}/{wanted['name']}"
            known = name in server.repositories
            server.repositories.setdefault(name, wanted)
            self._answer(409 if known else 200, {"url": f"{server.url}/{name}"})
        elif path == "/api/validate-yaml":  # of a card that is committed
            self._answer(200, {"errors": [], "warnings": []})
        elif REPO not in server.repositories or not re.match(rf"/(api/models/)?{REPO}(\.git)?/", path):
            self._answer(404, {"error": "Repository not found"}, "RepoNotFound")
        elif path == f"{api}/preupload/main":
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["size"] >= server.lfs_from else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            self._answer(200, {"files": files})
        elif path == f"/{REPO}.git/info/lfs/objects/batch":
            self._answer(200, {"transfer": "basic", "objects": [self._lfs(o) for o in json.loads(body)["objects"]]})
        elif path == f"{api}/tree/main":
            tree = [{"type": "file", "path": p, "size": len(d), "oid": "0" * 40} for p, d in server.files.items()]
            self._answer(200, tree)
        elif found := re.fullmatch(rf"/{REPO}/resolve/([^/]+)/(.+)", path):
            self._file(*found.groups())
        elif path == f"{api}/commit/main":
            self._commit([json.loads(line) for line in body.splitlines()])
            oid = f"{len(server.commits):040x}"
            self._answer(200, {"commitUrl": f"{server.url}/{REPO}/commit/{oid}", "commitOid": oid})
        else:
            self._answer(404, {"error": f"the stand-in does not know {self.command} {path}"})

    def _file(self, revision: str, name: str) -> None:
        """As it is now, whichever of its commits is asked for."""
        data, head = self.server.files.get(name), f"{len(self.server.commits):040x}"
        if revision != "main" and not (len(revision) == 40 and revision <= head):
            self._answer(404, {"error": "Invalid rev id"}, "RevisionNotFound")
        elif data is None:
            self._answer(404, {"error": "Entry not found"}, "EntryNotFound")
        else:
            etag = hashlib.sha256(data).hexdigest()
            self._send(200, data, {"ETag": f'"{etag}"', "X-Repo-Commit": head})

    def _lfs(self, wanted: dict) -> dict:
        if wanted["oid"] in self.server.objects:
            return wanted
        return {**wanted, "actions": {"upload": {"href": f"{self.server.url}/lfs/{wanted['oid']}"}}}

    def _commit(self, lines: list[dict]) -> None:
        server, commit = self.server, {"regular": [], "lfs": [], "deleted": []}
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                commit["summary"] = value["summary"]
            elif line["key"] == "file":
                server.files[value["path"]] = base64.b64decode(value["content"])
                commit["regular"].append(value["path"])
            elif line["key"] == "lfsFile":
                server.files[value["path"]] = server.objects[value["oid"]]
                commit["lfs"].append(value["path"])
            elif line["key"] == "deletedFile":
                del server.files[value["path"]]
                commit["deleted"].append(value["path"])
        server.commits.append(commit)
