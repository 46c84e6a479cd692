"""A real S3 server on this machine: JuiceFS's gateway over sqlite and files in a folder of its own."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

BUCKET = "ganline"
_LIMIT_SECONDS = 120
_KEY, _SECRET = "ganline-tests", "not-a-secret-of-anybody"

# It knows none of the checksums that Amazon's SDK adds by itself; and nobody asks the cloud who we are.
CLIENT_ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": _KEY,
    "AWS_SECRET_ACCESS_KEY": _SECRET,
    "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
    "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
    "AWS_EC2_METADATA_DISABLED": "true",
}


def s3_uri(address: str, prefix: str) -> str:
    return f"s3://{BUCKET}/{prefix}?scheme=http&endpoint_override={address}&region=us-east-1"


@contextmanager
def s3_server(folder: Path) -> Iterator[str]:
    """Its address, HOST:PORT, once it answers."""
    juicefs, meta = str(Path(sys.executable).parent / "juicefs"), f"sqlite3://{folder}/meta.db"
    environment = {**os.environ, "HOME": str(folder), "MINIO_ROOT_USER": _KEY, "MINIO_ROOT_PASSWORD": _SECRET}
    log = folder / "log"
    with open(log, "wb") as out:
        subprocess.run(
            [juicefs, "format", meta, BUCKET, "--storage", "file", "--bucket", f"{folder}/blobs/", "--trash-days", "0"],
            env=environment, stdout=out, stderr=out, check=True,
        )  # fmt: skip
        address = f"127.0.0.1:{free_port()}"
        server = subprocess.Popen(
            [
                juicefs, "gateway", meta, address, "--no-banner", "--no-usage-report", "--no-bgjob",
                "--backup-meta", "0", "--metrics", "127.0.0.1:0", "--cache-dir", f"{folder}/cache",
                "--log", f"{folder}/gateway.log", "--keep-etag",
            ],
            env=environment, stdout=out, stderr=out,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + _LIMIT_SECONDS
        while not _answers(address):
            assert server.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
        yield address
    finally:
        server.terminate()
        with suppress(subprocess.TimeoutExpired):
            server.wait(5)
        server.kill()
        server.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _answers(address: str) -> bool:
    try:
        urllib.request.urlopen(f"http://{address}/", timeout=5).close()
    except urllib.error.HTTPError as refusal:  # of somebody without credentials
        refusal.close()
        return True
    except OSError:
        return False
    return True
