"""What the benchmarks of sharding have in common: PNG files as photographs compress, and a Ray that is warm."""

import gc
import json
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.config import Data
from pipeline.shards.on_ray import shard_images
from pipeline.storage import Storage

SIZE, CLASSES = 64, 10
_TOUCHED = 1 << 30  # bytes


def png(folder: Path, number: int) -> Path:
    return folder / str(number % CLASSES) / f"{number:07}.png"


def write_pngs(folder: Path, numbers: range) -> None:
    """64 x 64 RGB, about 8 kB each: smooth with a little noise, ten classes; the number decides on the pixels."""
    for number in numbers:
        draws = np.random.default_rng(number)
        coarse = Image.fromarray(draws.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((SIZE, SIZE), Image.Resampling.BICUBIC)).astype(np.int16)
        noisy = (smooth + draws.integers(-6, 7, smooth.shape)).clip(0, 255).astype(np.uint8)
        path = png(folder, number)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noisy).save(path)


def data(source: Path) -> Data:
    return Data.model_validate({"source": str(source), "resolution": SIZE, "channels": 3, "encoding": "raw"})


@contextmanager
def warm_ray(workers: int) -> Iterator[None]:
    """A Ray with this many CPUs, whose workers have imported what they need."""
    import ray

    folder = tempfile.mkdtemp(prefix="ganline-ray-")
    ray.init("local", num_cpus=workers, include_dashboard=False, log_to_driver=False, _temp_dir=folder)
    gc.freeze()  # as `cluster()` does
    try:
        with tempfile.TemporaryDirectory() as scratch:
            write_pngs(Path(scratch, "images"), range(1200))
            shard_images(Storage(f"{scratch}/store"), "warm", data(Path(scratch, "images")))
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def touch_memory(folder: Path) -> None:
    """Has this much memory free that the machine holds.

    A virtual machine gives free memory back to its host, and to fetch it again costs ten times what it takes to
    write a file into it; a machine that is at work for some time does not pay that.
    """
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(_TOUCHED >> 20):
            file.write(bytes(1 << 20))


def report(lines: list[str], result: dict, out: Path | None) -> None:
    """Prints the lines; writes the figures with the command that made them."""
    print("\n".join(lines))
    if out:
        command = shlex.join(["python", *sys.argv])
        out.write_text(json.dumps({"command": command, "cores": os.cpu_count(), **result}, indent=1) + "\n")
