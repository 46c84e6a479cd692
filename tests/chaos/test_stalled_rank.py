"""A rank that stands still without dying."""

import re
import time
from threading import Thread

from disturbances import at_step

STALLED = 107


def test_a_rank_that_stalls_is_named_with_its_last_step_and_the_run_goes_on_without_it(run, left_alone, measured):
    run.disturbances.will(at_step("freeze", STALLED, rank=1))
    process = run.ganline.start(*run.command)
    lines: list[tuple[float, str]] = []
    listener = Thread(target=lambda: lines.extend((time.time(), line) for line in process.stderr))
    listener.start()
    process.wait(240)
    listener.join()
    said = "".join(line for _, line in lines)
    assert process.returncode == 0, said
    (stall,) = run.disturbances.came("freeze")
    when, line = next((when, line) for when, line in lines if f"worker 1 (process {stall['pid']} " in line)
    last = int(re.search(r"last step is ([\d,]+)", line)[1])
    assert 0 < last <= STALLED  # it tells once a second
    measured |= {"said": line.strip(), "seconds_to_be_named": round(when - stall["time"], 1)}
    measured["seconds_to_next_step"] = round(run.disturbances.seconds_to_next_step(stall["time"]), 1)
    assert measured["seconds_to_be_named"] <= 20
    run.ends_as(left_alone())
