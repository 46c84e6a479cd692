"""Decodes what comes in on standard input, each under a length, and says on a line of JSON what it took.

A process of its own, so that a crash or a hang is seen from outside.
"""

import json
import resource
import struct
import sys
import time
from pathlib import Path

from pipeline.ingest.image import ImageRules, InvalidImage, decode
from pipeline.ingest.problems import PROBLEMS

MEGAPIXEL = 1_000_000
# As many files as can be are let through to the decoders.
RULES = ImageRules(
    16, 3, "#336699", max_pixels=MEGAPIXEL, max_aspect=1e9, fixes=tuple(name for name, p in PROBLEMS.items() if p.fix)
)


def main() -> None:
    decode(b"P5 1 1 255 a", RULES)  # loads the libraries
    allowed = _status("VmSize") + (2 << 30)
    resource.setrlimit(resource.RLIMIT_AS, (allowed, allowed))
    while head := sys.stdin.buffer.read(4):
        data = sys.stdin.buffer.read(struct.unpack(">I", head)[0])
        Path("/proc/self/clear_refs").write_text("5")  # forgets the peak
        before, started = _status("VmHWM"), time.monotonic()
        outcome = _outcome(data)
        took = {"seconds": time.monotonic() - started, "bytes": _status("VmHWM") - before, "outcome": outcome}
        print(json.dumps(took), flush=True)


def _outcome(data: bytes) -> str:
    try:
        pixels = decode(data, RULES).pixels
    except InvalidImage as why:
        return why.reason if why.reason in PROBLEMS else f"a reason of its own: {why}"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    return "decoded" if pixels.shape == (16, 16, 3) and pixels.dtype == "uint8" else f"pixels {pixels.shape}"


def _status(name: str) -> int:
    """Bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024


if __name__ == "__main__":
    main()
