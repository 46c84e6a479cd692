"""How long a test gives what is promised within seconds."""

import os

# Seconds are promised of a machine that does nothing else, as under `make chaos`. `make test` has other tests beside
# each, on any machine: there a test finds out that what it waits for comes, and not after how long.
ALONE = "GANLINE_ALONE" in os.environ


def within(seconds: float) -> float:
    """The promise itself where nothing else runs; otherwise ten times as long."""
    return seconds if ALONE else 10 * seconds
