"""What is tried again, by kind of failure, in a real flow on a real Prefect server."""

import os
import subprocess
import sys
import urllib.request

FLOW = """
from prefect import flow
from flows.stage_task import stage_task
from pipeline import errors

def attempts(error):
    made = []

    def fail():
        made.append(1)
        raise error

    @flow
    def night():
        stage_task(fail).with_options(retry_delay_seconds=0)()

    try:
        night()
    except BaseException as raised:
        assert type(raised) is type(error), raised
    return len(made)

print(*map(attempts, [
    errors.UserError("a mistake"),
    errors.RunFailed("diverged"),
    errors.Stopped("on a wish", 2),
    errors.Unavailable("away"),
    OSError("no space left"),
]))
"""


def test_only_what_may_pass_is_tried_again(prefect_url):
    done = subprocess.run(
        [sys.executable, "-c", FLOW],
        env={**os.environ, "PREFECT_API_URL": prefect_url}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.stdout.split()[-5:] == ["1", "1", "1", "3", "3"], done.stderr


SECRETIVE = """
import sys
from contextlib import suppress
from prefect import flow
from flows.release import run_release
from flows.stage_task import stage_task
from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.storage import Storage

def fail():
    raise UserError("no answer from http://me:hunter2@there")

@flow
def night():
    stage_task(fail)()

config = Config.model_validate({"name": "t", "data": {"source": "nowhere"}, "storage": "s3://me:hunter2@b/x"})
for act in (lambda: run_release(config, Storage(sys.argv[1]), False), night):
    with suppress(UserError):
        act()
"""


def test_prefect_is_told_no_secret(prefect_url, tmp_path):
    subprocess.run(
        [sys.executable, "-c", SECRETIVE, tmp_path],
        env={**os.environ, "PREFECT_API_URL": prefect_url}, capture_output=True, timeout=300, check=True,
    )  # fmt: skip
    request = urllib.request.Request(f"{prefect_url}/flow_runs/filter", b"{}", {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as response:
        told = response.read().decode()
    assert "s3://***@b/x" in told and "http://***@there" in told and "hunter2" not in told
