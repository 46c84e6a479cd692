"""What checking, compositing and sizing cost beside bare Pillow: 64x64 PNG at resolution 64, one core, one process.

Prints microseconds an image, both sides interleaved, and the median of the ratios; at most 1.35.
"""

import io
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
from PIL import Image

from pipeline.ingest.image import ImageRules, decode

IMAGES, ROUNDS, SIDE, MOST = 200, 40, 64, 1.35


def main() -> int:
    draws, rules = np.random.default_rng(0), ImageRules(SIDE, 3, "white")
    worst = 0.0
    for name, channels, grain in (("RGB, smooth", 3, 8), ("RGB, noise", 3, 64), ("RGBA, smooth", 4, 8)):
        files = [_png(draws.integers(0, 256, (grain, grain, channels), dtype=np.uint8)) for _ in range(IMAGES)]
        pairs = [(_per_image(_bare, files), _per_image(lambda data: decode(data, rules), files)) for _ in range(ROUNDS)]
        bare, ours = (statistics.median(side) for side in zip(*pairs, strict=True))
        ratio = statistics.median(ours / bare for bare, ours in pairs)
        worst = max(worst, ratio)
        print(f"{name:12}  Pillow {bare:6.1f} us  decode {ours:6.1f} us  {ratio:.2f} times (at most {MOST})")
    return int(worst > MOST)


def _png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(stream, "PNG")
    return stream.getvalue()


def _bare(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def _per_image(decoder: Callable[[bytes], object], files: list[bytes]) -> float:
    started = time.perf_counter()
    for data in files:
        decoder(data)
    return (time.perf_counter() - started) / len(files) * 1e6


if __name__ == "__main__":
    sys.exit(main())
