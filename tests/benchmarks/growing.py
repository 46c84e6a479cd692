"""Time of an ingest after one per cent of new images came, against that of the first ingest.

    python tests/benchmarks/growing.py [--images 100000] [--rounds 3] [--out growing.json]

Ray's start is not counted, on either side. Exit code 1 if the second takes more than a tenth of the first.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from pngs import data, png, report, warm_ray, write_pngs

from pipeline.shards.on_ray import Ingest, shard_images
from pipeline.storage import Storage

MOST = 0.1


def timed(storage: Storage, source: Path) -> tuple[float, Ingest]:
    started = time.perf_counter()
    found = shard_images(storage, "images", data(source))
    return time.perf_counter() - started, found


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    images, more = arguments.images, max(1, arguments.images // 100)
    seconds: dict[str, list[float]] = {"first": [], "grown": []}
    with tempfile.TemporaryDirectory(prefix="ganline-growing-") as folder, warm_ray(2):
        source = Path(folder, "images")
        write_pngs(source, range(images))
        for number in range(arguments.rounds):
            storage = Storage(f"{folder}/store-{number}")
            taken, _ = timed(storage, source)
            seconds["first"].append(taken)
            write_pngs(source, range(images, images + more))
            taken, found = timed(storage, source)
            seconds["grown"].append(taken)
            assert sum(found.samples.values()) == images + more
            for new in range(images, images + more):
                png(source, new).unlink()
    share = median(seconds["grown"]) / median(seconds["first"])
    report(
        [
            f"first ingest of {images:,} images: {median(seconds['first']):.2f} s",
            f"with {more:,} more: {median(seconds['grown']):.2f} s, {share:.1%} of the first (aim {MOST:.0%})",
        ],
        {"images": images, "seconds": seconds, "share": share},
        arguments.out,
    )
    return int(share > MOST)


if __name__ == "__main__":
    sys.exit(main())
