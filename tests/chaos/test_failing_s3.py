"""A storage root on S3 that fails for a while in each way that it can."""

import time
from itertools import pairwise

import pytest
from chaos_run import EVERY
from faulty_proxy import FAULTS
from s3_server import CLIENT_ENVIRONMENT

from pipeline.storage import Storage

FROM, UNTIL, PACE = 2 * EVERY, 8 * EVERY, 0.15  # steps, and seconds that one takes at least
LONGEST = 60  # seconds that it fails


@pytest.mark.parametrize("fault", FAULTS)
def test_steps_go_on_while_s3_fails_and_the_run_ends_the_same(
    run, left_alone, measured, fault, proxy, s3_root, faulty_root
):
    near = Storage(s3_root)
    _copy(Storage(str(run.ganline.root)), near, "datasets")
    cache = str(run.ganline.folder / "cache-home")
    run.ganline.env |= {**CLIENT_ENVIRONMENT, "GANLINE_STORAGE": faulty_root, "XDG_CACHE_HOME": cache}
    run.storage = near
    run.slowly(PACE, last=UNTIL)
    process = run.start_until_step(FROM)
    proxy.fail(fault, -1)
    failing_until = time.monotonic() + LONGEST
    while run.disturbances.at() < UNTIL and process.poll() is None and time.monotonic() < failing_until:
        time.sleep(0.1)
    proxy.forget()
    _, said = process.communicate(timeout=240)
    assert process.returncode == 0, said
    _copy(near, Storage(str(run.ganline.root)), "runs")
    times = [step.time for step in run.disturbances.steps() if step.rank == 0]
    pauses = [max(0.0, after - before - 2 * PACE) for before, after in pairwise(times)]
    measured |= {"longest_pause_seconds": round(max(pauses), 1), "pauses_seconds": round(sum(pauses), 1)}
    assert sum(pauses) <= 120 and max(pauses) < 10
    run.ends_as(left_alone())


def _copy(here: Storage, there: Storage, folder: str) -> None:
    for entry in here.list(folder):
        if entry.is_folder:
            _copy(here, there, entry.path)
        else:
            there.write(entry.path, here.read(entry.path))
