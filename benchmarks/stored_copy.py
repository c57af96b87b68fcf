"""A copy of a folder in an object storage server on this machine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import patch

from mobilemamba.errors import UserError

BUCKET = "benchmark"
WAIT_SECONDS = 60


@contextmanager
def stored_copy(folder: Path) -> Iterator[str]:
    """Copy a folder into moto's server and yield its address.

    Raises:
        UserError: When moto or boto3 is not installed, or the server does not start.
    """
    if find_spec("moto") is None or find_spec("boto3") is None:
        raise UserError("--ways storage needs a server: pip install 'moto[s3,server]' boto3, or leave it out.")
    import boto3

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    settings = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    try:
        with patch.dict(os.environ, settings):
            _wait_for(port)
            client = boto3.client("s3")
            client.create_bucket(Bucket=BUCKET)
            for file in folder.rglob("*.*"):
                client.upload_file(str(file), BUCKET, str(file.relative_to(folder)))
            yield f"s3://{BUCKET}"
    finally:
        server.terminate()
        server.wait()


def _wait_for(port: int) -> None:
    until = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError as error:
            if time.monotonic() > until:
                raise UserError(f"moto's server did not answer within {WAIT_SECONDS} s.") from error
            time.sleep(0.1)
