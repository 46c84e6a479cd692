"""Whether a dataset version is what its manifest says, down to the byte: what is wrong is named, never raised.

A shard that differs from its sha256 is searched for where: its tar's headers by their checksums, its samples
by the crc32 of the index. Memory is bounded by one shard.
"""

import io
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import groupby

import numpy as np
import pyarrow.parquet as pq
from pydantic import TypeAdapter

from pipeline.digest import digest
from pipeline.errors import UserError
from pipeline.progress import Progress, report
from pipeline.shards.foreign.pixels import decoder
from pipeline.shards.index import Index
from pipeline.shards.manifest import (
    SCHEMA,
    DatasetRef,
    Manifest,
    Shard,
    all_versions,
    dataset_folder,
    index_path,
    latest_version,
    tar_place,
)
from pipeline.shards.tar import open_tar
from pipeline.shards.verify_rows import Rows, read_sound_index, rows_of, together
from pipeline.shards.verify_tar import Expected, Problem, check_tar
from pipeline.storage import Storage, sha256

_SHOWN = 8


@dataclass(frozen=True)
class Verification:
    """What was checked and every problem found, in the order of the manifest.

    `samples` counts the rows of the indexes that are sound, `bytes` all that was read.
    """

    dataset: DatasetRef
    shards: int
    samples: int
    bytes: int
    problems: list[Problem]

    @property
    def ok(self) -> bool:
        return not self.problems


def resolve_dataset(storage: Storage, text: str) -> DatasetRef:
    """`NAME`: its latest version; `NAME@PREFIX`: the one version whose digest begins so. Else UserError."""
    name, at, prefix = text.partition("@")
    names = [entry.path.rpartition("/")[2] for entry in storage.list("datasets") if entry.is_folder]
    if name not in names:
        there = f"there are: {_some(names)}" if names else "make one: ganline shard SOURCE --name NAME"
        raise UserError(f"there is no dataset {name or repr(text)} in {storage.name}; {there}")
    versions = [version.digest for version in all_versions(storage, name)]
    if not at:
        return _latest(storage, name, versions)
    found = [version for version in versions if prefix and version.startswith(prefix)]
    if len(found) != 1:
        wrong = "begins several versions" if found else "is no version"
        raise UserError(f"{name}@{prefix} {wrong}; there are: {_some([v[:12] for v in found or versions])}")
    return DatasetRef(name, found[0])


def _latest(storage: Storage, name: str, versions: list[str]) -> DatasetRef:
    remedy = f"name a version: {_some([f'{name}@{version[:12]}' for version in versions])}"
    try:
        dataset = latest_version(storage, name)
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{dataset_folder(name)}/latest.json is damaged; {remedy}") from None
    if dataset is None or not isinstance(dataset.digest, str):
        raise UserError(f"{dataset_folder(name)}/latest.json names no version; {remedy}")
    return dataset


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if names[_SHOWN:] else "") or "none"


def verify_dataset(storage: Storage, dataset: DatasetRef) -> Verification:
    """Reads all of a version: its manifest, its tables, each shard's tar and index, each sample.

    Damage never raises and never ends the check: it becomes a Problem. What can not be read is a problem too.
    """
    log = _Log(storage)
    manifest = _check_manifest(log, dataset)
    if manifest is None:
        return Verification(dataset, 0, 0, log.bytes, log.problems)
    hidden = _check_removed(log, dataset, manifest)
    for table in ("sources", "quarantine"):
        if not storage.exists(f"{dataset.folder}/{table}.parquet"):
            log.add(None, f"{table}.parquet is missing")

    total, done, samples = sum(shard.samples for shard in manifest.shards), 0, 0
    labels: Counter | None = Counter()
    report(Progress("verify", 0, total))
    tars = [list(same) for _, same in groupby(manifest.shards, key=lambda shard: shard.sha256)]
    for same in tars:
        for index in _check_shard(log, dataset.name, manifest, same, hidden):
            samples += len(index.label) if index else 0
            if index and hidden is not None and labels is not None:
                labels.update(index.without(hidden.get(same[0].sha256, set())).label.tolist())
            else:
                labels = None  # what can not all be counted is not compared
        done += sum(shard.samples for shard in same)
        report(Progress("verify", done, total))
    if labels is not None:
        _check_classes(log, manifest, labels)
    return Verification(dataset, len(tars), samples, log.bytes, log.problems)


class _Log:
    """Reads files for the checks, and keeps what they find."""

    def __init__(self, storage: Storage):
        self.storage, self.problems, self.bytes = storage, list[Problem](), 0

    def add(self, shard: str | None, what: str, offset: int | None = None, key: str | None = None) -> None:
        self.problems.append(Problem(shard, offset, key, what))

    def read(self, path: str, shard: str | None, name: str) -> bytes | None:
        """None, and a problem, where there is nothing to read."""
        try:
            data = self.storage.read(path)
        except FileNotFoundError:
            self.add(shard, f"{name} is missing")
            return None
        except (OSError, ValueError) as error:
            self.add(shard, f"{name} can not be read: {_first_line(error)}")
            return None
        self.bytes += len(data)
        return data


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0] or type(error).__name__


def _check_manifest(log: _Log, dataset: DatasetRef) -> Manifest | None:
    """The manifest even where it is not the one that the digest names; None where it is none at all."""
    data = log.read(f"{dataset.folder}/manifest.json", None, "manifest.json")
    if data is None:
        return None
    try:
        values = json.loads(data)
        if values.get("schema") != SCHEMA:
            raise ValueError(f"schema {values.get('schema')} is not {SCHEMA}")
        actual = digest({key: value for key, value in values.items() if key != "parent"})
        manifest = TypeAdapter(Manifest).validate_python(values)
    except (ValueError, AttributeError, RecursionError) as error:  # JSON of any shape, or none
        log.add(None, f"manifest.json is damaged: {(str(error).splitlines() or [''])[0]}")
        return None
    if actual != dataset.digest:
        log.add(None, f"manifest.json has been altered: its digest is {actual[:12]}, not {dataset.digest[:12]}")
    for split in ("train", "held_out"):
        counted = sum(shard.samples - shard.removed for shard in manifest.shards if shard.split == split)
        if counted != manifest.samples.get(split):
            log.add(None, f"manifest.json says {manifest.samples.get(split)} {split} samples, its shards {counted}")
    return manifest


def _check_removed(log: _Log, dataset: DatasetRef, manifest: Manifest) -> dict[str, set[str]] | None:
    """Shard to the keys that this version hides in it; None where that can not be known."""
    data = log.read(f"{dataset.folder}/removed.parquet", None, "removed.parquet")
    if data is None:
        return None
    if sha256(data) != manifest.removed_sha256:
        log.add(None, "removed.parquet is damaged: its sha256 is not the manifest's")
        return None
    hidden: dict[str, set[str]] = {}
    try:
        for row in pq.read_table(io.BytesIO(data), columns=["shard", "key"]).to_pylist():
            hidden.setdefault(row["shard"], set()).add(row["key"])
    except Exception as error:  # of an altered manifest that names it
        log.add(None, f"removed.parquet is damaged: {type(error).__name__}")
        return None
    for unknown in hidden.keys() - {shard.sha256 for shard in manifest.shards}:
        log.add(None, f"removed.parquet names shard {unknown}, which the manifest does not")
    return hidden


def _check_classes(log: _Log, manifest: Manifest, labels: Counter) -> None:
    unknown = sum(count for label, count in labels.items() if label >= len(manifest.classes) or label < -1)
    if unknown:
        log.add(None, f"{unknown} samples have a label that is none of the manifest's {len(manifest.classes)} classes")
    for number, (name, count) in enumerate(zip(manifest.classes, manifest.class_counts, strict=False)):
        if labels[number] != count:
            log.add(None, f"manifest.json says {count} samples of class {name}, the indexes {labels[number]}")


def _check_shard(
    log: _Log, name: str, manifest: Manifest, same: list[Shard], removed: dict[str, set[str]] | None
) -> list[Index | None]:
    """A tar and its index, or its two, against the manifest and each other; each index that is the one written."""
    tar_name = same[0].uri or same[0].sha256
    hidden = None if removed is None else removed.get(same[0].sha256, set())
    found = [_check_index(log, name, manifest, shard, hidden) for shard in same]
    usable = [rows for rows, _, _ in found if rows]
    rows = together(usable) if len(usable) == len(same) else None
    expected = Expected(
        tar_name, same[0].sha256, same[0].bytes, manifest, partial(_decodes, decoder(manifest), manifest)
    )
    try:
        with open_tar(*tar_place(log.storage, name, same[0])) as tar:
            log.bytes += len(tar)
            problems = check_tar(tar, expected, rows)
    except FileNotFoundError:
        log.add(tar_name, "the tar is missing")
    except (OSError, ValueError, UserError) as error:
        log.add(tar_name, f"the tar can not be read: {_first_line(error)}")
    else:
        log.problems += sorted(problems, key=lambda problem: -1 if problem.offset is None else problem.offset)
    return [index if sound else None for _, index, sound in found]


def _check_index(
    log: _Log, name: str, manifest: Manifest, shard: Shard, hidden: set[str] | None
) -> tuple[Rows | None, Index | None, bool]:
    """What it says as far as it can be read, and whether it is what was written."""
    tar_name = shard.uri or shard.sha256
    which = "the index" if shard.uri is None else f"the index of its {shard.split} samples"
    data = log.read(index_path(name, shard), tar_name, which)
    if data is None:
        return None, None, False
    index = read_sound_index(data)
    rows = rows_of(data, index, manifest) if index else None
    sound = sha256(data) == shard.index_sha256
    if not sound:
        log.add(tar_name, f"{which} is damaged: its sha256 is not the manifest's")
    elif index is None or rows is None:
        log.add(tar_name, f"{which} can not be read")
    if index:
        keys = set(index.keys.to_pylist())
        if len(index.label) != shard.samples:
            log.add(tar_name, f"{which} holds {len(index.label)} samples, the manifest says {shard.samples}")
        if len(keys) != len(index.label):
            log.add(tar_name, f"{len(index.label) - len(keys)} keys are in {which} more than once")
        # A foreign tar's two sides share one list of what is hidden.
        strangers = len(hidden - keys) if hidden is not None and shard.uri is None else 0
        if hidden is not None and (len(hidden & keys) != shard.removed or strangers):
            log.add(
                tar_name,
                f"removed.parquet hides {len(hidden & keys)} of its samples and {strangers} that it has not,"
                f" the manifest says {shard.removed}",
            )
    return rows, index, sound


def _decodes(decode: Callable[[bytes], np.ndarray], manifest: Manifest, data: bytes) -> bool:
    try:
        pixels = decode(data)
    except Exception:  # damaged bytes make decoders raise anything
        return False
    return pixels.shape == (manifest.resolution, manifest.resolution, manifest.channels)
