"""Memory and time of an ingest's plan for a listing of millions, copies among them: no image, no Ray.

    python tests/benchmarks/plan_memory.py [--rows 10000000] [--out plan_memory.json]

Plans a first ingest, then one of the same source in which a hundredth of the files are gone, a hundredth new and a
hundredth in another class. Each runs in a process of its own; exit code 1 if one takes more than 1 GB.
"""

import argparse
import json
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.ingest.source import Item
from pipeline.shards.listing import write_listing
from pipeline.shards.manifest import Shard
from pipeline.shards.parts import PREPARED_SCHEMA
from pipeline.shards.plan import choose, compare, divide, place, shard_plans, take_before, unread
from pipeline.shards.tables import Tables
from pipeline.shards.version import REMOVED_SCHEMA, SOURCES_SCHEMA, Before, conclude, settle

LIMIT_MB = 1000
CLASSES, SHARD_IMAGES, HELD_OUT = 10, 1000, 0.05

_STORED = """
SELECT shard, hex(key) AS key, 0::BIGINT AS "offset", 12416::BIGINT AS size, 1::UINTEGER AS crc32
FROM before WHERE shard IS NOT NULL
"""


def content(number: int) -> int:
    """Of a file's number: every tenth file is a copy of its neighbour."""
    return number - 1 if number % 10 == 9 else number


def items(rows: int, changed: bool) -> Iterator[Item]:
    """In an order that is not that of the paths."""
    for at in range(rows):
        number = (at * 7_368_787) % rows
        label = number % CLASSES
        if changed and number % 100 == 50:
            continue
        if changed and number % 100 == 51:
            label = (label + 1) % CLASSES
        if changed and number % 100 == 52:
            number += rows
        yield Item(f"class-{label}/some/folder/image-{number:09}.png", str(label), 8000, f"8000-17{number:017}")


def prepare(tables: Tables, to: Path) -> int:
    """What reading the unread files would give."""
    done = 0
    with pq.ParquetWriter(to, PREPARED_SCHEMA) as writer:
        for part, batch in enumerate(unread(tables)):
            numbers = [int(path[-13:-4]) for path in batch["path"].to_pylist()]
            keys = [blake2b(str(content(number)).encode(), digest_size=16).hexdigest() for number in numbers]
            count = len(keys)
            known = np.array([key == was for key, was in zip(keys, batch["known"].to_pylist(), strict=True)], bool)
            offset = pa.array(np.arange(count) * 12416, mask=known)
            columns = [
                batch["id"], pa.array([part] * count, pa.int32(), mask=known), pa.array(keys), offset,
                pa.array([12416] * count, mask=known), pa.array([1] * count, pa.uint32(), mask=known),
                pa.array([8000] * count), pa.array([640] * count, pa.int32()), pa.array([480] * count, pa.int32()),
                pa.array(["RGB"] * count), pa.array([""] * count), pa.array([""] * count),
            ]  # fmt: skip
            writer.write_table(pa.table(columns, schema=PREPARED_SCHEMA))
            done += count
    return done


def ingest(folder: Path, before: Before, rows: int, changed: bool) -> dict:
    """One plan, from listing to tables; the shards that it would write are made up."""
    scratch = folder / ("second" if changed else "first")
    scratch.mkdir()
    with Tables(scratch) as tables:
        files = write_listing(items(rows, changed), listing := scratch / "listing.parquet")
        take_before(tables, [shard.sha256 for shard in before.shards], before.sources, before.removed)
        to_read = compare(tables, listing)
        prepared = scratch / "prepared.parquet"
        assert prepare(tables, prepared) == to_read
        classes = choose(tables, prepared, before.classes)
        copied = place(tables, 0)
        # As if each of the shards that images are copied from held all the images that there are.
        tables.copy(_STORED if copied else f"{_STORED} LIMIT 0", stored := scratch / "stored.parquet")
        planned, division = divide(tables, stored, classes, HELD_OUT, SHARD_IMAGES)
        parts = [f"part {number}" for number in range(to_read // 1000 + 1)]
        written = []
        for plan in shard_plans("synthetic", planned, division, parts, before.shards):
            name = blake2b("".join(plan.rows["key"].to_pylist()).encode(), digest_size=32).hexdigest()
            written.append(Shard(name, name, plan.split, len(plan.rows), 14_000_000))
        shards = settle(tables, before, planned, division, written)
        outcome = conclude(tables, shards)
    for name in ("sources", "removed"):
        outcome.tables[name].rename(folder / f"{name}.parquet")
    (folder / "shards.json").write_text(json.dumps([[vars(shard) for shard in shards], classes]))
    return {
        "files": files, "to_read": to_read, "kept": outcome.kept, "duplicates": outcome.duplicates,
        "planned": division.held_out + division.train, "shards_written": len(written),
        "samples": sum(shard.samples - shard.removed for shard in shards),
    }  # fmt: skip


def one(folder: Path, rows: int, changed: bool) -> dict:
    if changed:
        shards, classes = json.loads((folder / "shards.json").read_text())
        before = Before(
            folder / "sources.parquet", folder / "removed.parquet",
            shards=[Shard(**shard) for shard in shards], classes=classes,
        )  # fmt: skip
    else:
        before = Before(folder / "no-sources.parquet", folder / "no-removed.parquet")
        pq.write_table(SOURCES_SCHEMA.empty_table(), before.sources)
        pq.write_table(REMOVED_SCHEMA.empty_table(), before.removed)
    started = time.perf_counter()
    found = ingest(folder, before, rows, changed)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {**found, "seconds": round(time.perf_counter() - started, 1), "peak_mb": round(peak)}


def measure(rows: int) -> dict[str, dict]:
    """The first ingest and the second, each in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="ganline-plan-") as folder:
        return {
            which: json.loads(subprocess.run(
                [sys.executable, __file__, "--rows", str(rows), "--only", which, folder],
                check=True, stdout=subprocess.PIPE, text=True,
            ).stdout)
            for which in ("first", "second")
        }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", nargs=2, metavar=("WHICH", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        which, folder = arguments.only
        print(json.dumps(one(Path(folder), arguments.rows, which == "second")))
        return 0
    found = measure(arguments.rows)
    for which, figures in found.items():
        print(f"{which}: {figures['peak_mb']:,} MB of {LIMIT_MB:,}, {figures['seconds']:,} s; {figures}")
    if arguments.out:
        result = {"command": shlex.join(["python", *sys.argv]), "limit_mb": LIMIT_MB, **found}
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    return int(any(figures["peak_mb"] > LIMIT_MB for figures in found.values()))


if __name__ == "__main__":
    sys.exit(main())
