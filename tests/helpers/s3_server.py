"""A server on this machine that speaks Amazon's S3 (moto's), behind one that fails in the way a test asks for."""

import http.client
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from unittest import mock

from helpers.http_body import read_body

BUCKET = "bucket-of-the-test"

# What goes wrong with a request of this method and path: an HTTP status, "close", or None.
Fault = Callable[[str, str], int | str | None]


class S3(ThreadingHTTPServer):
    """Passes requests on to moto's server.

    Attributes:
        fault: asked for each request.
        asked: "METHOD path" of all of them.
        environment: names the server to whoever is started with it.
    """

    daemon_threads = True

    def __init__(self, port: int):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.moto_port = port
        self.fault: Fault = lambda *_: None
        self.asked: list[str] = []
        self.environment = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.server_port}",
            **dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "test"),
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def handle_error(self, *_: object) -> None:
        """A client that is killed is part of a test."""


class _Handler(BaseHTTPRequestHandler):
    server: S3
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Keep quiet."""

    def _handle(self) -> None:
        body = self._body()
        self.server.asked.append(f"{self.command} {self.path}")
        fault = self.server.fault(self.command, self.path)
        if fault == "close":
            self.close_connection = True
            return
        if fault is not None:
            code = "AccessDenied" if fault == 403 else "InternalError"
            self._send(int(fault), [], f"<Error><Code>{code}</Code><Message>as asked for</Message></Error>".encode())
            return
        connection = http.client.HTTPConnection("127.0.0.1", self.server.moto_port, timeout=60)
        headers = {key: value for key, value in self.headers.items() if key.lower() != "transfer-encoding"}
        connection.request(self.command, self.path, body or None, headers | {"Content-Length": str(len(body))})
        response = connection.getresponse()
        self._send(response.status, response.getheaders(), response.read())
        connection.close()

    do_HEAD = do_GET = do_PUT = do_POST = do_DELETE = _handle  # noqa: N815

    def _body(self) -> bytes:
        if self.headers.get("Expect", "").lower() == "100-continue" and self.request_version < "HTTP/1.1":
            self.send_response_only(100)
        return read_body(self)

    def _send(self, status: int, headers: list[tuple[str, str]], data: bytes) -> None:
        length = next((value for key, value in headers if key.lower() == "content-length"), str(len(data)))
        self.send_response_only(status)
        for key, value in headers:
            if key.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(key, value)
        self.send_header("Content-Length", length if self.command == "HEAD" else str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


@contextmanager
def s3_server() -> Iterator[S3]:
    """A running server with one empty bucket, which the environment of this process names."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    moto.start()
    try:
        with S3(moto.get_host_and_port()[1]) as server, mock.patch.dict(os.environ, server.environment):
            thread = threading.Thread(target=server.serve_forever, kwargs=dict(poll_interval=0.02), daemon=True)
            thread.start()
            store().mkdir(BUCKET)
            try:
                yield server
            finally:
                server.shutdown()
                thread.join()
    finally:
        moto.stop()


def store():
    """s3fs on that server, which keeps no listings."""
    import s3fs

    return s3fs.S3FileSystem(skip_instance_cache=True, use_listings_cache=False)


def objects(prefix: str) -> dict[str, bytes]:
    """Contents under a prefix of the bucket, by name."""
    root = f"{BUCKET}/{prefix}"
    fs = store()
    # Of an empty prefix s3fs finds the prefix.
    return {path.removeprefix(f"{root}/"): fs.cat_file(path) for path in fs.find(root) if path != root}
