"""Azure's storage of objects for the tests: Azurite, Microsoft's own emulator, which runs on Node."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from email.utils import formatdate
from pathlib import Path

import httpx

from tests.support.interop import npm

ACCOUNT = "tests"
KEY = base64.b64encode(b"a key that is for the tests only").decode()
START_SECONDS = 60


@contextlib.contextmanager
def azurite() -> Iterator[str]:
    """The URL of a running storage, which has the account ACCOUNT with the key KEY."""
    packages = npm.install(Path(__file__).parent / "package.json")
    with closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    process = subprocess.Popen(
        [
            packages / "node_modules" / ".bin" / "azurite-blob",
            *(
                "--blobPort",
                str(port),
                "--inMemoryPersistence",
                "--disableTelemetry",
                "--skipApiVersionCheck",
            ),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"AZURITE_ACCOUNTS": f"{ACCOUNT}:{KEY}"},
        start_new_session=True,
    )
    url = f"http://127.0.0.1:{port}/{ACCOUNT}"
    try:
        deadline = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(httpx.TransportError):
                httpx.get(url, timeout=10)
                break
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("Azurite does not start")
            time.sleep(0.05)
        yield url
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def make_container(url: str, name: str) -> None:
    """An empty container.

    Signed with the account's key:
    https://learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key
    """
    stated = f"x-ms-date:{formatdate(usegmt=True)}\nx-ms-version:2021-08-06"
    # The path begins with the account, and Azurite's URLs do so too.
    to_sign = "PUT" + "\n" * 12 + f"{stated}\n/{ACCOUNT}/{ACCOUNT}/{name}\nrestype:container"
    signature = hmac.digest(base64.b64decode(KEY), to_sign.encode(), hashlib.sha256)
    headers = dict(each.split(":", 1) for each in stated.splitlines())
    headers["Authorization"] = f"SharedKey {ACCOUNT}:{base64.b64encode(signature).decode()}"
    made = httpx.put(f"{url}/{name}?restype=container", headers=headers, timeout=30)
    made.raise_for_status()
