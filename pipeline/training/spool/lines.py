"""A telemetry point as one line of JSON."""

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

Point = dict[str, Any]

READ_AT_ONCE = 256 << 10  # bytes; no single point comes near
_IMAGES_FIRST = re.compile(rb'\{"images": (\d+),')  # as `to_line` writes it, whose points have them first


def to_line(point: Point) -> bytes:
    return json.dumps(point).encode() + b"\n"


def to_point(line: bytes) -> Point | None:
    """None for what is no whole point: a crash or a full disk may have cut it."""
    try:
        point = json.loads(line)
    except ValueError:
        return None
    return point if isinstance(point, dict) and "images" in point else None


def images_of(line: bytes) -> int | None:
    """None for what is no whole point."""
    if line.endswith(b"}\n") and (found := _IMAGES_FIRST.match(line)):
        return int(found[1])
    point = to_point(line)
    return None if point is None else int(point["images"])


def standing(lines: Iterable[bytes], resume_images: int) -> Iterator[bytes]:
    """The points that a run which goes on from there will not measure again."""
    for line in lines:
        images = images_of(line)
        if images is not None and images <= resume_images:
            yield line if line.endswith(b"\n") else line + b"\n"


def whole_lines(data: bytes) -> bytes:
    """Up to the last line's end; the rest may still be written."""
    return data[: data.rfind(b"\n") + 1]
