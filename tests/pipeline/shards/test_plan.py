"""The plan of an ingest, on tables alone: no image, no Ray."""

import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.ingest.image import unknown_format
from pipeline.ingest.source import Item
from pipeline.shards.listing import write_listing
from pipeline.shards.parts import PREPARED_SCHEMA
from pipeline.shards.plan import choose, compare, divide, place, shard_plans, take_before, unread
from pipeline.shards.stored import write_stored
from pipeline.shards.tables import Tables, publish
from pipeline.shards.version import REMOVED_SCHEMA, SOURCES_SCHEMA
from pipeline.shards.write import ShardPlan, content_key, is_held_out
from pipeline.storage import Storage

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "plan_memory.py"


@pytest.fixture
def tables(tmp_path):
    (tmp_path / "tables").mkdir()
    with Tables(tmp_path / "tables") as tables:
        yield tables


def row(path: str, stamp: str, key: str, label: str | None, status: str, **more) -> dict:
    rest = {"reason": "", "detail": "", "shard": "", "bytes": 1, "width": 1, "height": 1, "mode": "L"}
    return {"path": path, "stamp": stamp, "key": key, "label": label, "status": status, **rest, **more}


def start(tables: Tables, items: list[Item], before: list[dict], shards: list[str], rehash: bool = False) -> int:
    pq.write_table(pa.Table.from_pylist(before, SOURCES_SCHEMA), sources := tables.folder / "sources.parquet")
    pq.write_table(REMOVED_SCHEMA.empty_table(), removed := tables.folder / "removed.parquet")
    take_before(tables, shards, sources, removed)
    write_listing(iter(items), listing := tables.folder / "listing.parquet")
    return compare(tables, listing, rehash)


def plan(tables: Tables, items: list[Item], keys: dict[str, str]) -> list[ShardPlan]:
    """Of a first ingest; the offset of an image tells its key's number."""
    start(tables, items, [], [])
    found = [each for batch in unread(tables) for each in batch.to_pylist()]
    rows = [
        {"id": each["id"], "part": 0, "key": keys[each["path"]], "offset": int(keys[each["path"]][:12], 16), "size": 1,
         "crc32": 1, "bytes": 1, "width": 1, "height": 1, "mode": "L", "reason": "", "detail": ""}
        for each in found
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows, PREPARED_SCHEMA), prepared := tables.folder / "prepared.parquet")
    classes = choose(tables, prepared, [])
    assert place(tables, 0) == []
    write_stored(Storage(str(tables.folder)), "none", [], stored := tables.folder / "stored.parquet")
    planned, division = divide(tables, stored, classes, 0.2, 9)
    return list(shard_plans("none", planned, division, ["part"], []))


def test_the_plan_does_not_depend_on_the_listing(tmp_path):
    items = [Item(f"{number % 3}/{number}", str(number % 3), 1, "s") for number in range(200)]
    keys = {item.path: content_key(str(index // 2).encode()) for index, item in enumerate(items)}  # pairs of copies
    plans = []
    for seed in range(4):
        folder = tmp_path / str(seed)
        folder.mkdir()
        with Tables(folder) as tables:
            plans.append(plan(tables, random.Random(seed).sample(items, len(items)) if seed else items, keys))
    assert plans[0] == plans[1] == plans[2] == plans[3]
    rows = [row for plan in plans[0] for row in plan.rows.to_pylist()]
    keys_of_rows = [row["key"] for row in rows]
    assert len(rows) == len(set(keys_of_rows)) == 100
    assert keys_of_rows == sorted(keys_of_rows)
    assert all(len(plan.rows) <= 9 for plan in plans[0])
    # Full shards, but for the last of each split.
    assert Counter(len(plan.rows) == 9 for plan in plans[0])[False] <= 2
    assert all(
        is_held_out(key, 0.2) == (plan.split == "held_out") for plan in plans[0] for key in plan.rows["key"].to_pylist()
    )
    # Of two copies the first by path stands for both: its class is theirs.
    first = {}
    for item in sorted(items, key=lambda item: item.path):
        first.setdefault(keys[item.path], int(item.label))
    assert {row["key"]: row["label"] for row in rows} == first


def test_only_what_cannot_be_known_is_opened(tables):
    kept, lost, refused, away = (content_key(word) for word in (b"kept", b"lost", b"refused", b"away"))
    strange, foreign = content_key(b"strange"), content_key(b"foreign")
    before = [
        row("kept", "s", kept, None, "kept", shard="here"),
        row("touched", "s", kept, None, "duplicate"),
        row("copy", "s", kept, None, "duplicate"),
        row("lost", "s", lost, None, "kept", shard="deleted"),
        row("copy-of-lost", "s", lost, None, "duplicate"),
        row("refused", "s", refused, None, "quarantined", reason="truncated"),
        row("unreadable", "s", away, None, "quarantined", reason="unreadable"),
        row("strange", "s", strange, None, "quarantined", reason="not_an_image", detail=unknown_format()),
        row("foreign", "s", foreign, None, "quarantined", reason="not_an_image", detail="none of JPEG, PNG"),
        row("without-stamp", "", kept, None, "duplicate"),
    ]
    items = [Item(each["path"], None, 1, "t" if each["path"] == "touched" else each["stamp"]) for each in before]
    # What could not be read is tried again: a permission given since changes no stamp.
    opened = {
        "touched": kept,
        "lost": None,
        "copy-of-lost": None,
        "unreadable": None,
        "foreign": None,  # when it was refused, fewer formats were known
        "without-stamp": kept,
        "new": None,
    }
    assert start(tables, [*items, Item("new", None, 1, "s")], before, ["here"]) == len(opened)
    found = [each for batch in unread(tables) for each in batch.to_pylist()]
    assert {each["path"]: each["known"] for each in found} == opened
    assert [each["path"] for each in found] == list(opened)  # in the source's order


def test_rehash_opens_all_and_tells_what_is_known(tables):
    kept = content_key(b"kept")
    before = [row("a", "s", kept, None, "kept", shard="here"), row("b", "s", kept, None, "duplicate")]
    assert start(tables, [Item("a", None, 1, "s"), Item("b", None, 1, "s")], before, ["here"], rehash=True) == 2
    assert {each["known"] for batch in unread(tables) for each in batch.to_pylist()} == {kept}


def test_a_published_table_has_the_bytes_that_pyarrow_writes_at_once(tmp_path):
    table = pa.Table.from_pylist([{"shard": f"{n:064x}", "key": f"{n:032x}"} for n in range(1000)], REMOVED_SCHEMA)
    pq.write_table(table, tmp_path / "rows.parquet", row_group_size=70)
    pq.write_table(table, tmp_path / "at-once.parquet", compression="zstd")
    publish([tmp_path / "rows.parquet"], tmp_path / "published.parquet", REMOVED_SCHEMA, 1 << 20)
    assert (tmp_path / "published.parquet").read_bytes() == (tmp_path / "at-once.parquet").read_bytes()


def test_the_plan_keeps_to_its_memory(tmp_path):
    subprocess.run([sys.executable, BENCHMARK, "--rows", "200000", "--out", tmp_path / "found.json"], check=True)
    found = json.loads((tmp_path / "found.json").read_text())
    first, second = found["first"], found["second"]
    assert max(first["peak_mb"], second["peak_mb"]) <= found["limit_mb"] == 1000
    assert (first["files"], first["to_read"], first["duplicates"], first["samples"]) == (
        200_000,
        200_000,
        20_000,
        180_000,
    )
    # A hundredth gone, a hundredth new, a hundredth moved: only the latter two are read, and none is kept twice.
    assert (second["files"], second["to_read"], second["planned"], second["samples"]) == (198_000, 4000, 4000, 178_000)
