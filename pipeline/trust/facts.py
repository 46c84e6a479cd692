"""What there is to say of a dataset version, asked of its manifest and tables. Sizes are of the source images."""

from dataclasses import dataclass

import duckdb

from pipeline.shards.manifest import DatasetRef, Manifest, load_manifest
from pipeline.storage import Storage
from pipeline.trust.tables import open_tables

_EXAMPLES = 5  # of each reason, and of each group of duplicates
_GROUPS = 8


@dataclass(frozen=True)
class Refused:
    """One reason for quarantine, with the first files by path: `(path, detail)`."""

    reason: str
    files: int
    examples: list[tuple[str, str]]


@dataclass(frozen=True)
class Copies:
    """Files with the same bytes: how many there are of them, and the first by path."""

    key: str
    files: int
    examples: list[str]


@dataclass(frozen=True)
class Change:
    """Against the parent: images by class that came and that went, and files in quarantine then and now."""

    parent: str
    came: dict[str, int]
    went: dict[str, int]
    samples: tuple[int, int]
    quarantined: tuple[int, int]


@dataclass(frozen=True)
class Facts:
    """`classes` has (train, held out) by class, "" for images without; `widths` and so on are counts by value.

    `aspects` are of width to height, in steps of a twentieth of an octave: value `n` is 2 to the `n / 20`. `change`
    is None without a parent, or where it is gone.
    """

    dataset: DatasetRef
    manifest: Manifest
    files: int
    classes: dict[str, tuple[int, int]]
    widths: dict[int, int]
    heights: dict[int, int]
    aspects: dict[int, int]
    modes: dict[str, int]
    bytes: int
    refused: list[Refused]
    duplicates: int
    copies: list[Copies]
    change: Change | None

    @property
    def samples(self) -> int:
        return sum(self.manifest.samples.values())

    @property
    def quarantined(self) -> int:
        return sum(refused.files for refused in self.refused)


def find_facts(storage: Storage, dataset: DatasetRef) -> Facts:
    manifest = load_manifest(storage, dataset)
    with open_tables(storage, sources=dataset) as database:
        files, duplicates, size = _row(
            database, "SELECT count(*), count(*) FILTER (status = 'duplicate'), coalesce(sum(bytes), 0) FROM sources"
        )
        return Facts(
            dataset=dataset,
            manifest=manifest,
            files=files,
            classes=_classes(database, manifest),
            widths=_counts(database, "width", "width > 0"),
            heights=_counts(database, "height", "height > 0"),
            aspects=_counts(database, "round(20 * log2(width / height))::INT", "width > 0 AND height > 0"),
            modes=_counts(database, "mode", "mode <> ''"),
            bytes=int(size),
            refused=_refused(database),
            duplicates=duplicates,
            copies=_copies(database),
            change=_change(storage, dataset, manifest),
        )


def _row(database: duckdb.DuckDBPyConnection, query: str) -> tuple:
    return database.execute(query).fetchall()[0]


def _counts(database: duckdb.DuckDBPyConnection, what: str, where: str) -> dict:
    query = f"SELECT {what}, count(*) FROM sources WHERE status = 'kept' AND {where} GROUP BY 1 ORDER BY 1"
    return dict(database.execute(query).fetchall())


def _classes(database: duckdb.DuckDBPyConnection, manifest: Manifest) -> dict[str, tuple[int, int]]:
    database.execute("CREATE TEMP TABLE held_out (shard VARCHAR)")
    if shards := [[shard.sha256] for shard in manifest.of_split("held_out")]:
        database.executemany("INSERT INTO held_out VALUES (?)", shards)
    rows = database.execute(
        "SELECT label, count(*) FILTER (held_out.shard IS NULL), count(held_out.shard)"
        " FROM sources LEFT JOIN held_out USING (shard) WHERE status = 'kept' GROUP BY 1"
    ).fetchall()
    found = {label or "": (train, held_out) for label, train, held_out in rows}
    order = {name: number for number, name in enumerate(manifest.classes)}
    known = {name: found.get(name, (0, 0)) for name in manifest.classes}
    return known | {name: found[name] for name in sorted(found) if name not in order}


def _refused(database: duckdb.DuckDBPyConnection) -> list[Refused]:
    rows = database.execute(
        f"SELECT reason, count(*), arg_min([path, detail], path, {_EXAMPLES}) FROM sources"
        " WHERE status = 'quarantined' GROUP BY 1 ORDER BY 2 DESC, 1"
    ).fetchall()
    return [Refused(reason, files, [(path, detail) for path, detail in examples]) for reason, files, examples in rows]


def _copies(database: duckdb.DuckDBPyConnection) -> list[Copies]:
    largest = (
        f"SELECT key FROM sources WHERE status = 'duplicate' GROUP BY 1 ORDER BY count(*) DESC, key LIMIT {_GROUPS}"
    )
    rows = database.execute(
        f"SELECT key, count(*), min(path, {_EXAMPLES}) FROM sources"
        f" WHERE status IN ('kept', 'duplicate') AND key IN ({largest}) GROUP BY 1 ORDER BY 2 DESC, 1"
    ).fetchall()
    return [Copies(key, files, examples) for key, files, examples in rows]


def _change(storage: Storage, dataset: DatasetRef, manifest: Manifest) -> Change | None:
    if manifest.parent is None:
        return None
    parent = DatasetRef(dataset.name, manifest.parent)
    try:
        before = load_manifest(storage, parent)
        with open_tables(storage, new=dataset, old=parent) as database:
            return Change(
                parent=parent.digest,
                came=_only_in(database, "new", "old"),
                went=_only_in(database, "old", "new"),
                samples=(sum(before.samples.values()), sum(manifest.samples.values())),
                quarantined=_row(
                    database,
                    "SELECT (SELECT count(*) FROM old WHERE status = 'quarantined'),"
                    " (SELECT count(*) FROM new WHERE status = 'quarantined')",
                ),
            )
    except FileNotFoundError:
        return None


def _only_in(database: duckdb.DuckDBPyConnection, one: str, other: str) -> dict[str, int]:
    """Images that are in one version and not in the other, or there under another class; by class."""
    rows = database.execute(
        f"SELECT coalesce(a.label, ''), count(*) FROM {one} a ANTI JOIN {other} b"
        " ON a.key = b.key AND a.label IS NOT DISTINCT FROM b.label AND b.status = 'kept'"
        " WHERE a.status = 'kept' GROUP BY 1 ORDER BY 2 DESC, 1"
    ).fetchall()
    return dict(rows)
