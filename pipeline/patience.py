"""Trying again where a store that is busy, restarting or badly reached may answer later.

Every wait is logged. What an error does not name as final is tried again.
"""

import logging
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")
log = logging.getLogger(__name__)

_FINAL = (FileNotFoundError, PermissionError, FileExistsError, IsADirectoryError, NotADirectoryError)
# S3 alone has no types for these.
_FINAL_TEXTS = re.compile(
    r"AWS Error (\w*(ACCESS_DENIED|NO_SUCH_BUCKET|SIGNATURE|INVALID|MISSING|MALFORMED|EXPIRED|SKEWED|VALIDATION)"
    r"|\w+ \(HTTP status (3|4(?!08|29))\d\d\)|UNRECOGNIZED_CLIENT|OPT_IN_REQUIRED)"
)


@dataclass(frozen=True)
class Patience:
    """At most `attempts`, the last begun no later than `seconds` after the first one failed."""

    attempts: int = 8
    seconds: float = 60.0
    first_pause: float = 0.5
    longest_pause: float = 15.0

    def call(self, what: str, attempt: Callable[[], T]) -> T:
        """Raises the last attempt's OSError as one that says what was tried, how often and for how long."""
        began = None
        for number in range(1, self.attempts + 1):
            try:
                return attempt()
            except OSError as error:
                if not may_pass(error):
                    raise
                began = began or time.monotonic()
                waited, reason = time.monotonic() - began, first_line(error)
            # Workers that failed together must not come back together.
            pause = min(self.first_pause * 2 ** (number - 1), self.longest_pause) * random.uniform(0.5, 1.0)
            if number == self.attempts or waited + pause > self.seconds:
                break
            log.warning("%s: %s; attempt %d of %d in %.1f s", what, reason, number + 1, self.attempts, pause)
            time.sleep(pause)
        raise OSError(f"{what} failed {number} times in {waited:.0f} s, at last with: {reason}")


def may_pass(error: OSError) -> bool:
    return not isinstance(error, _FINAL) and not _FINAL_TEXTS.search(str(error))


def first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
