"""Object storages for the tests: moto's S3, which honours conditions, and one of our own, which ignores them.

moto runs in a process of its own that answers one request after another: it looks whether an object is there and stores
it in two steps, so that of two at once both could win.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import httpx

START_SECONDS = 60

_MOTO = """
import sys
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple
run_simple("127.0.0.1", int(sys.argv[1]), DomainDispatcherApplication(create_backend_app), threaded=False)
"""

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "tester",
    "AWS_SECRET_ACCESS_KEY": "let-me-in",
    "AWS_REGION": "us-east-1",
    "AWS_ALLOW_HTTP": "true",
}
"""What a client needs beside AWS_ENDPOINT_URL."""


@contextlib.contextmanager
def moto() -> Iterator[str]:
    """The URL of a running S3."""
    with closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-c", _MOTO, str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"MOTO_S3_CUSTOM_ENDPOINTS": f"http://127.0.0.1:{port}"},
        start_new_session=True,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(httpx.TransportError):
                httpx.get(f"{url}/moto-api/", timeout=10)
                break
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("moto's server does not start: is moto[server] installed?")
            time.sleep(0.05)
        yield url
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def make_bucket(url: str, name: str) -> None:
    """An empty bucket."""
    httpx.put(f"{url}/{name}", timeout=30).raise_for_status()


class _Careless(BaseHTTPRequestHandler):
    """Enough of S3 to store objects. It ignores conditions in silence, as `rclone serve s3` does."""

    protocol_version = "HTTP/1.1"
    objects: dict[str, bytes]

    def do_PUT(self) -> None:
        self.objects[self._name] = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(200, b"", ETag='"0"')

    def do_GET(self) -> None:
        asked = parse_qs(urlsplit(self.path).query)
        if "list-type" in asked:
            self._answer(200, self._listing(asked.get("prefix", [""])[0], asked.get("delimiter", [""])[0]))
        elif self._name in self.objects:
            self._answer(200, self.objects[self._name], ETag='"0"')
        else:
            self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")

    do_HEAD = do_GET  # noqa: N815

    def do_DELETE(self) -> None:
        self.objects.pop(self._name, None)
        self._answer(204, b"")

    @property
    def _name(self) -> str:
        return unquote(urlsplit(self.path).path)

    def _listing(self, prefix: str, delimiter: str) -> bytes:
        bucket = self._name.rstrip("/")
        names = [each.removeprefix(f"{bucket}/") for each in sorted(self.objects)]
        names = [name for name in names if name.startswith(prefix)]
        folders: set[str] = set()
        if delimiter:
            inner = [name for name in names if delimiter in name.removeprefix(prefix)]
            names = [name for name in names if name not in inner]
            folders = {f"{prefix}{name.removeprefix(prefix).split(delimiter)[0]}/" for name in inner}
        found = "".join(
            f"<Contents><Key>{escape(name)}</Key><Size>{len(self.objects[f'{bucket}/{name}'])}</Size>"
            "<ETag>0</ETag><LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
            for name in names
        ) + "".join(
            f"<CommonPrefixes><Prefix>{escape(folder)}</Prefix></CommonPrefixes>"
            for folder in sorted(folders)
        )
        return f"<ListBucketResult><IsTruncated>false</IsTruncated>{found}</ListBucketResult>".encode()

    def _answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT", **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextlib.contextmanager
def careless() -> Iterator[str]:
    """The URL of a running storage that ignores conditions."""
    handler = type("Careless", (_Careless,), {"objects": {}})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
