"""Images/s of sharding PNG files to raw shards, against one loop of Pillow and webdataset.ShardWriter.

    python tests/benchmarks/sharding.py [--images 10000] [--rounds 5] [--out sharding.json]

Each round times the loop, Ganline on one worker and Ganline on two, on the same files. Ray's start is not counted.
Exit code 1 if Ganline on two workers is not 3 times the loop and 1.7 times one worker.
"""

import argparse
import shutil
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import webdataset
from PIL import Image
from pngs import data, report, touch_memory, warm_ray, write_pngs

from pipeline.shards.on_ray import shard_images
from pipeline.storage import Storage

OVER_LOOP, OVER_ONE = 3.0, 1.7


def loop(source: Path, to: Path) -> float:
    to.mkdir()
    touch_memory(to)
    started = time.perf_counter()
    classes = sorted(folder.name for folder in source.iterdir())
    with webdataset.ShardWriter(f"{to}/%05d.tar", maxcount=1000, verbose=0) as writer:
        for number, path in enumerate(sorted(source.rglob("*.png"))):
            with Image.open(path) as image:
                pixels = np.asarray(image.convert("RGB"))
            writer.write({"__key__": f"{number:08}", "npy": pixels, "cls": classes.index(path.parent.name)})
    return time.perf_counter() - started


def ganline(source: Path, to: Path, workers: int) -> float:
    with warm_ray(workers):
        touch_memory(to.parent)
        started = time.perf_counter()
        shard_images(Storage(str(to)), "images", data(source))
        return time.perf_counter() - started


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    seconds: dict[str, list[float]] = {"loop": [], "one": [], "two": []}
    with tempfile.TemporaryDirectory(prefix="ganline-sharding-") as folder:
        source = Path(folder, "images")
        write_pngs(source, range(arguments.images))
        sides = {"loop": loop, "one": partial(ganline, workers=1), "two": partial(ganline, workers=2)}
        for _ in range(arguments.rounds):
            for name, shard in sides.items():
                seconds[name].append(shard(source, to := Path(folder, name)))
                shutil.rmtree(to)
    rate = {name: arguments.images / median(taken) for name, taken in seconds.items()}
    over_loop, over_one = rate["two"] / rate["loop"], rate["two"] / rate["one"]
    report(
        [
            f"one loop of Pillow and webdataset.ShardWriter: {rate['loop']:,.0f} images/s",
            f"Ganline, one worker: {rate['one']:,.0f} images/s",
            f"Ganline, two workers: {rate['two']:,.0f} images/s: {over_loop:.2f} times the loop (aim {OVER_LOOP}),"
            f" {over_one:.2f} times one worker (aim {OVER_ONE})",
        ],
        {"images_per_second": rate, "seconds": seconds, "over_loop": over_loop, "over_one": over_one},
        arguments.out,
    )
    return int(over_loop < OVER_LOOP or over_one < OVER_ONE)


if __name__ == "__main__":
    sys.exit(main())
