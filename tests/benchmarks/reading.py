"""How fast batches come, beside other ways to get them: `python tests/benchmarks/reading.py`.

Both sides of a comparison read the same files in one run, turn about; medians over the rounds, their ratio beside
its bar. Every image is checked by crc32, decoded, and batched with its label, in one process. Prints one line a
comparison and writes all figures as JSON. Exit code 1 if a bar is missed.
"""

import argparse
import importlib.util
import io
import itertools
import json
import mmap
import os
import platform
import statistics
import sys
import tarfile
import tempfile
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import webdataset
from PIL import Image, ImageFilter
from torch.utils.data import DataLoader

from pipeline.shards.batches import StreamBatches
from pipeline.shards.encoding import encode, suffix
from pipeline.shards.index import read_index, write_index
from pipeline.shards.manifest import DatasetRef, Manifest, Shard, commit_version, shard_path
from pipeline.shards.order import Order
from pipeline.shards.read import DatasetReader
from pipeline.storage import Storage, sha256

BATCH, STREAMS, WINDOW, CLASSES = 64, 8, 2, 10


@dataclass
class Comparison:
    """Images/s of both sides, by round, and what their ratio should be."""

    name: str
    ours: list[float]
    other: list[float]
    bar: float

    @property
    def ratio(self) -> float:
        return statistics.median(self.ours) / statistics.median(self.other)


def make_dataset(storage: Storage, name: str, images: int, per_shard: int, encoding: str, side: int) -> DatasetRef:
    """Labelled noise for raw, smooth noise for jpeg: what the bytes are does not matter, that they differ does."""
    shards = []
    for number, first in enumerate(range(0, images, per_shard)):
        rng, count = np.random.default_rng(number), min(per_shard, images - first)
        buffer, columns = io.BytesIO(), {field: [] for field in ("key", "offset", "size", "crc32", "label")}
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for i in range(count):
                key, label = f"{first + i:032x}", i % CLASSES
                data = encode(_pixels(rng, encoding, side), encoding)
                for extension, content in (("cls", str(label).encode()), (suffix(encoding), data)):
                    member = tarfile.TarInfo(f"{key}.{extension}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
                offset = tar.offset - -(-len(data) // 512) * 512
                row = (key, offset, len(data), zlib.crc32(data), label)
                for column, value in zip(columns.values(), row, strict=True):
                    column.append(value)
        sides = {"width": [side] * count, "height": [side] * count}
        tar_bytes, index = buffer.getvalue(), write_index({**columns, **sides})
        shards.append(Shard(sha256(tar_bytes), sha256(index), "train", count, len(tar_bytes)))
        for data, kind in ((index, "parquet"), (tar_bytes, "tar")):
            path = storage.local_path(shard_path(name, shards[-1].sha256, kind))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    names = [str(label) for label in range(CLASSES)]
    counts = {"train": images, "held_out": 0}
    manifest = Manifest(side, 3, encoding, {}, names, counts, [images // CLASSES] * CLASSES, shards, sha256(b""))
    return commit_version(storage, name, manifest, {"removed": b""})


def _pixels(rng: np.random.Generator, encoding: str, side: int) -> np.ndarray:
    pixels = np.frombuffer(rng.bytes(side * side * 3), dtype=np.uint8).reshape(side, side, 3)
    return pixels if encoding == "raw" else np.asarray(Image.fromarray(pixels).filter(ImageFilter.BoxBlur(4)))


def tars(storage: Storage, dataset: DatasetRef) -> list[str]:
    return sorted(str(path) for path in storage.local_path(f"datasets/{dataset.name}/shards").glob("*.tar"))


Batches = Iterator[tuple[object, object]]


def ours(reader: DatasetReader, begun: list[int]) -> Batches:
    """Goes on where the round before stopped."""
    order = Order(reader.counts, batch=BATCH, streams=STREAMS, window=WINDOW, seed=0)
    while True:
        steps = range(begun[0], begun[0] + 10**6)
        for batch in DataLoader(StreamBatches(reader, order, range(STREAMS)), batch_size=None, sampler=steps):
            begun[0] += 1
            yield batch


def bare_gather(storage: Storage, dataset: DatasetRef, side: int) -> Batches:
    """The least that has to be done: a slice of a map, its crc32, a copy into the batch."""
    rows, size = [], side * side * 3
    for path in tars(storage, dataset):
        index = read_index(Path(path).with_suffix(".parquet").read_bytes())
        with open(path, "rb") as file:
            tar = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        columns = (index.offset, index.offset + index.size, index.crc32, index.label)
        rows += [(tar, *row) for row in zip(*(column.tolist() for column in columns), strict=True)]
    order = np.random.default_rng(0).permutation(len(rows)).tolist()
    for first in itertools.cycle(range(0, len(rows) - BATCH + 1, BATCH)):
        images, labels = np.empty((BATCH, size), dtype=np.uint8), np.empty(BATCH, dtype=np.int64)
        for place, row in enumerate(order[first : first + BATCH]):
            tar, begin, end, crc, labels[place] = rows[row]
            data = tar[begin:end]
            if zlib.crc32(data) != crc:
                raise ValueError("damaged")
            images[place] = np.frombuffer(data, np.uint8, size, len(data) - size)
        yield images, labels


def with_webdataset(storage: Storage, dataset: DatasetRef, encoding: str) -> Batches:
    """Its pipeline as its documents show it; it checks no crc32. JPEG it decodes with Pillow."""
    read = webdataset.WebDataset(tars(storage, dataset), shardshuffle=100, seed=0).shuffle(1000)
    decoded = read.decode() if encoding == "raw" else read.decode("rgb8")
    while True:
        yield from decoded.to_tuple(suffix(encoding), "cls").batched(BATCH)


def with_litdata(folder: str, storage: Storage, dataset: DatasetRef, side: int) -> Batches:
    """Its StreamingDataLoader over chunks of the same pixels as bytes; where LitData is installed, beside .venv:

    pip install --no-deps --target DIR litdata==0.2.76 tifffile obstore boto3 botocore s3transfer jmespath, and then
    PYTHONPATH=DIR make bench.
    """
    import litdata

    if not Path(folder, "index.json").exists():
        writer = litdata.streaming.writer.BinaryWriter(folder, chunk_bytes="64MB")
        reader, at = DatasetReader(storage, dataset, "train"), 0
        for number, count in enumerate(reader.counts):
            for pixels, label in zip(*reader.read(np.full(count, number), np.arange(count)), strict=True):
                writer.add_item(at, {"image": pixels.tobytes(), "label": int(label)})
                at += 1
        writer.done()
        writer.merge(1)

    class Pixels(litdata.StreamingDataset):
        def __getitem__(self, index):
            item = super().__getitem__(index)
            return torch.frombuffer(bytearray(item["image"]), dtype=torch.uint8).view(side, side, 3), item["label"]

    while True:
        data = Pixels(folder, shuffle=True, drop_last=True)
        yield from litdata.StreamingDataLoader(data, batch_size=BATCH, num_workers=0)


def rate(batches: Batches, images: int) -> float:
    """Images/s over this many images, once the next batch has come."""
    next(batches)
    begun = time.perf_counter()
    for _ in range(images // BATCH):
        next(batches)
    return images // BATCH * BATCH / (time.perf_counter() - begun)


def compare(name: str, mine: Callable[[], float], other: Callable[[], float], rounds: int, bar: float) -> Comparison:
    """Turn about; the first round, in which files are opened for the first time, does not count."""
    pairs = [(mine(), other()) for _ in range(rounds + 1)][1:]
    found = Comparison(name, [a for a, _ in pairs], [b for _, b in pairs], bar)
    print(
        f"{'ok  ' if found.ratio >= bar else 'MISS'} {name}: {statistics.median(found.ours):,.0f} to"
        f" {statistics.median(found.other):,.0f} images/s, ratio {found.ratio:.2f}, at least {bar}",
        flush=True,
    )
    return found


def positions(shards: int, per_shard: int) -> dict[str, float]:
    """Milliseconds of a step that nothing is kept of, medians, and the order's memory at its peak."""
    tracemalloc.start()
    order = Order([per_shard] * shards, batch=BATCH, streams=STREAMS, window=WINDOW, seed=0)
    order.rows(10**7, 0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    cold, warm = [], []
    for step in np.random.default_rng(0).integers(0, 10**8, 400).tolist():
        for times, wanted in ((cold, step), (warm, step ^ 1)):
            begun = time.perf_counter()
            order.rows(wanted, step % STREAMS)
            times.append((time.perf_counter() - begun) * 1000)
    found = {"cold_ms": statistics.median(cold), "cold_ms_p90": float(np.quantile(cold, 0.9)), "peak_mb": peak / 1e6}
    good = found["cold_ms"] <= 1 and found["peak_mb"] <= 200
    print(
        f"{'ok  ' if good else 'MISS'} any step of {shards * per_shard:,} images in {shards:,} shards:"
        f" {found['cold_ms']:.2f} ms (9 of 10 below {found['cold_ms_p90']:.2f}), at most 1;"
        f" {found['peak_mb']:.0f} MB, at most 200; a step after it {statistics.median(warm):.4f} ms"
    )
    return {**found, "warm_ms": statistics.median(warm), "ok": good}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=10_000, help="64 x 64 raw images")
    parser.add_argument("--large", type=int, default=500_000, help="the same, of the large dataset; 0: none")
    parser.add_argument("--jpeg", type=int, default=4_000, help="256 x 256 JPEG images; 0: none")
    parser.add_argument("--shard-images", type=int, default=2_000)
    parser.add_argument("--read", type=int, default=20_000, help="images a side and round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder", help="where the datasets are made; default: a temporary folder")
    parser.add_argument("--json", default="reading.json", help="where the figures go")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        found, position = run(given, folder)
    figures = {
        "command": [Path(sys.executable).name, *sys.argv],
        "machine": {"cpus": os.cpu_count(), "processor": platform.processor() or platform.machine()},
        "comparisons": [{**vars(one), "ratio": one.ratio} for one in found],
        "positions": position,
    }
    Path(given.json).write_text(json.dumps(figures, indent=1) + "\n")
    return int(not position["ok"] or any(one.ratio < one.bar for one in found))


def run(given: argparse.Namespace, folder: str) -> tuple[list[Comparison], dict[str, float]]:
    storage, found = Storage(folder), []
    position = positions(10_000, 10_000)

    small = make_dataset(storage, "small", given.images, given.shard_images, "raw", 64)
    mine, bare = ours(DatasetReader(storage, small, "train"), [0]), bare_gather(storage, small, 64)
    read, tenth = given.read, max(BATCH, given.read // 10)
    found.append(
        compare("64 x 64 raw, to a bare gather", lambda: rate(mine, read), lambda: rate(bare, read), given.rounds, 0.6)
    )
    web = with_webdataset(storage, small, "raw")
    found.append(
        compare("64 x 64 raw, to webdataset", lambda: rate(mine, read), lambda: rate(web, tenth), given.rounds, 20)
    )
    if importlib.util.find_spec("litdata"):
        lit = with_litdata(f"{folder}/litdata", storage, small, 64)
        found.append(
            compare("64 x 64 raw, to LitData", lambda: rate(mine, read), lambda: rate(lit, read), given.rounds, 2)
        )
    else:
        print("skip 64 x 64 raw, to LitData: litdata is not installed")
    if given.large:
        large = make_dataset(storage, "large", given.large, given.shard_images, "raw", 64)
        reader = DatasetReader(storage, large, "train")
        many, first = ours(reader, [0]), []
        first.append(rate(many, given.large - 2 * BATCH))  # an epoch, in which each shard is hashed
        print(f"     {given.large:,} images, the first epoch, in which each shard is hashed: {first[0]:,.0f} images/s")
        name = f"{given.large:,} images to {given.images:,}"
        found.append(compare(name, lambda: rate(many, read), lambda: rate(mine, read), given.rounds, 0.9))
    if given.jpeg:
        pictures = make_dataset(storage, "jpeg", given.jpeg, given.shard_images, "jpeg", 256)
        mine_jpeg = ours(DatasetReader(storage, pictures, "train"), [0])
        web_jpeg = with_webdataset(storage, pictures, "jpeg")
        name = "256 x 256 JPEG, to webdataset with Pillow"
        found.append(compare(name, lambda: rate(mine_jpeg, tenth), lambda: rate(web_jpeg, tenth), given.rounds, 1.5))
    return found, position


if __name__ == "__main__":
    sys.exit(main())
