"""A local HTTP server with Range requests that fails in the way a test asks for."""

import hashlib
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Fault:
    """What goes wrong with one answer."""

    cut: int | None = None  # bytes after which the connection ends
    length: int | None = None  # Content-Length that is said
    status: int | None = None  # instead of an answer
    ignore_range: bool = False
    ignore_if_range: bool = False  # the part that was asked for, of whatever file is there now
    headers: bool = True  # False: neither ETag nor Last-Modified
    drip: float = 0.0  # seconds before every 1,000 bytes
    shift: int = 0  # bytes by which a part begins late


@dataclass
class Server:
    url: str
    files: dict[str, bytes] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)  # one for each answer to come, then `always`
    always: Fault = field(default_factory=Fault)
    asked: list[tuple[str, str | None]] = field(default_factory=list)  # path and Range


class _Handler(BaseHTTPRequestHandler):
    server: "_HTTPServer"

    def do_GET(self) -> None:
        state = self.server.state
        state.asked.append((self.path, self.headers.get("Range")))
        fault = state.faults.pop(0) if state.faults else state.always
        body = state.files.get(self.path)
        if fault.status or body is None:
            return self.send_error(fault.status or 404)
        etag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
        first = self._first_byte(fault, etag)
        if first is not None and first >= len(body):
            return self.send_error(416)
        self.send_response(200 if first is None else 206)
        if first is not None:
            first += fault.shift
            self.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body)}")
        answer = body[first or 0 :]
        self.send_header("Content-Length", str(len(answer) if fault.length is None else fault.length))
        if fault.headers:
            self.send_header("ETag", etag)
            self.send_header("Last-Modified", "Fri, 01 Sep 2017 00:00:00 GMT")
        self.end_headers()
        answer = answer[: fault.cut]
        for start in range(0, len(answer), 1000):
            time.sleep(fault.drip)
            self.wfile.write(answer[start : start + 1000])
        return None

    def _first_byte(self, fault: Fault, etag: str) -> int | None:
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        condition = self.headers.get("If-Range", etag)
        if not match or fault.ignore_range or (condition != etag and not fault.ignore_if_range):
            return None
        return int(match[1])

    def log_message(self, *_: object) -> None:
        """The test's output is its own."""


class _HTTPServer(ThreadingHTTPServer):
    daemon_threads = True
    state: Server

    def handle_error(self, *_: object) -> None:
        """A client that is killed is part of a test."""


@contextmanager
def serve(files: dict[str, bytes]) -> Iterator[Server]:
    """Serve `files` (bytes by path) from a free port of 127.0.0.1 until the block ends."""
    with _HTTPServer(("127.0.0.1", 0), _Handler) as server:
        server.state = Server(f"http://127.0.0.1:{server.server_port}", dict(files))
        thread = threading.Thread(target=server.serve_forever, kwargs=dict(poll_interval=0.02), daemon=True)
        thread.start()
        try:
            yield server.state
        finally:
            server.shutdown()
            thread.join(5)
