"""Whether a dataset version is what its manifest says, down to the byte: what is wrong is named, never raised.

A shard that differs from its sha256 is searched for where: its tar's headers by their checksums, its samples
by the crc32 of the index. Memory is bounded by one shard.
"""

import io
import json
import tarfile
import zlib
from collections import Counter
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
import pyarrow.parquet as pq
from pydantic import TypeAdapter

from pipeline.digest import digest
from pipeline.errors import UserError
from pipeline.progress import Progress, report
from pipeline.shards.encoding import decode, suffix
from pipeline.shards.index import Index, read_index
from pipeline.shards.manifest import (
    SCHEMA,
    DatasetRef,
    Manifest,
    Shard,
    all_versions,
    dataset_folder,
    latest_version,
    shard_path,
)
from pipeline.storage import Storage, sha256

_BLOCK = tarfile.BLOCKSIZE
_SHOWN = 8
_MOST = 1 << 60  # bytes


@dataclass(frozen=True)
class Problem:
    """`shard` is None for the version's own files; `offset` is in the shard's tar; `key` names the sample hit."""

    shard: str | None
    offset: int | None
    key: str | None
    what: str


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
        raise UserError(f"there is no dataset {name or repr(text)} in {storage.uri}; {there}")
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
    for shard in manifest.shards:
        hides = None if hidden is None else hidden.get(shard.sha256, set())
        rows = _check_shard(log, dataset.name, manifest, shard, hides)
        samples += len(rows.label) if rows else 0
        if rows and hides is not None and labels is not None:
            labels.update(rows.without(hides).label.tolist())
        else:
            labels = None  # what can not all be counted is not compared
        done += shard.samples
        report(Progress("verify", done, total))
    if labels is not None:
        _check_classes(log, manifest, labels)
    return Verification(dataset, len(manifest.shards), samples, log.bytes, log.problems)


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
            reason = (str(error).splitlines() or [""])[0] or type(error).__name__
            self.add(shard, f"{name} can not be read: {reason}")
            return None
        self.bytes += len(data)
        return data


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


def _check_shard(log: _Log, name: str, manifest: Manifest, shard: Shard, hidden: set[str] | None) -> Index | None:
    """Both files of a shard against the manifest and each other; its index, if it is the one that was written."""
    data = log.read(shard_path(name, shard.sha256, "parquet"), shard.sha256, "the index")
    rows = None if data is None else _read_rows(data)
    sound = data is not None and sha256(data) == shard.index_sha256
    if data is not None and not sound:
        log.add(shard.sha256, "the index is damaged: its sha256 is not the manifest's")
    elif data is not None and rows is None:
        log.add(shard.sha256, "the index can not be read")
    if rows:
        keys = set(rows.keys.to_pylist())
        if len(rows.label) != shard.samples:
            log.add(shard.sha256, f"the index holds {len(rows.label)} samples, the manifest says {shard.samples}")
        if len(keys) != len(rows.label):
            log.add(shard.sha256, f"{len(rows.label) - len(keys)} keys are in the index more than once")
        if hidden is not None and (len(hidden & keys) != shard.removed or hidden - keys):
            log.add(
                shard.sha256,
                f"removed.parquet hides {len(hidden & keys)} of its samples and {len(hidden - keys)} that it has not,"
                f" the manifest says {shard.removed}",
            )
    del data
    tar = log.read(shard_path(name, shard.sha256, "tar"), shard.sha256, "the tar")
    if tar is not None:
        found = _check_tar(tar, manifest, shard, rows)
        log.problems += sorted(found, key=lambda problem: -1 if problem.offset is None else problem.offset)
    return rows if sound else None


def _read_rows(data: bytes) -> Index | None:
    """The index, unless it is too damaged to be used."""
    try:
        rows = read_index(data)
        numbers = (rows.offset, rows.size, rows.crc32, rows.label)
        whole = None not in rows.keys.to_pylist() and all(np.issubdtype(column.dtype, np.integer) for column in numbers)
        placed = all(((column >= 0) & (column < _MOST)).all() for column in (rows.offset, rows.size))
    except Exception:  # a damaged Parquet file makes its reader raise anything
        return None
    return rows if whole and placed else None


@dataclass(frozen=True)
class _Member:
    """`at`: of its header; `offset`: of its bytes."""

    name: str
    at: int
    offset: int
    size: int

    @property
    def key(self) -> str:
        folder, slash, base = self.name.rpartition("/")
        return folder + slash + base.partition(".")[0]

    @property
    def padded_end(self) -> int:
        return _padded(self.offset + self.size)


@dataclass(frozen=True)
class _Walk:
    """The regular files of a tar, what is wrong between them, and whether it has an end mark."""

    members: list[_Member]
    faults: list[tuple[int, str]]
    ended: bool


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _walk(tar: bytes, expected: int) -> _Walk:
    """Goes from header to header; after one that is damaged, on to the next block that is a sound one."""
    members: list[_Member] = []
    faults: list[tuple[int, str]] = []
    at, content_end = 0, _content_end(tar)
    while at < len(tar):
        if at >= content_end:  # nothing but zeros to the end
            return _Walk(members, faults, True)
        member, wrong = _member(tar, at)
        if member and member.offset + member.size > len(tar):
            if len(tar) < expected:
                break
            member, wrong = None, "the header tells of more bytes than the tar has"
        elif not member and len(tar) - at < _BLOCK:
            break
        if member:
            members.append(member)
            at = member.padded_end
            if padding := tar[member.offset + member.size : at].lstrip(b"\0"):
                faults.append((min(at, len(tar)) - len(padding), f"the padding after {member.name} is not zero"))
        else:
            faults.append((at, wrong))
            at += _BLOCK
            while at < content_end and not (tar[at + 257 : at + 262] == b"ustar" and _member(tar, at)[0]):
                at += _BLOCK
    return _Walk(members, faults, False)


def _member(tar: bytes, at: int) -> tuple[_Member | None, str]:
    """The member whose header lies at `at`, or what is wrong with that header."""
    header = tar[at : at + _BLOCK]
    try:
        info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return None, "the header is zeroed" if not any(header) else "the header is damaged: its checksum is wrong"
    if info.size < 0:
        return None, "the header is damaged: its size is negative"
    return _Member(info.name, at, at + _BLOCK, info.size), ""


def _content_end(tar: bytes) -> int:
    """Where the zeros begin that a tar ends with."""
    end = len(tar)
    while end:
        begin = max(0, end - (1 << 20))
        if content := tar[begin:end].rstrip(b"\0"):
            return begin + len(content)
        end = begin
    return 0


def _check_tar(tar: bytes, manifest: Manifest, shard: Shard, rows: Index | None) -> list[Problem]:
    """A tar against its sha256, its index, and, where it is not the one that was written, itself."""
    sound = sha256(tar) == shard.sha256
    walk = _walk(tar, shard.bytes)
    if sound:  # then it is as it was written, and so are its headers
        walk = replace(walk, faults=[])
    if rows is None:
        problems = [Problem(shard.sha256, at, None, what) for at, what in walk.faults]
        problems += [] if sound else _undecodable(tar, manifest, shard, walk)
        lost = set()
    else:
        found = _Samples(tar, manifest, shard, rows, walk, sound)
        problems, lost = found.problems(), found.lost
    if not walk.ended and len(tar) < shard.bytes:
        problems.append(_cut(tar, shard, rows, lost))
    if sound and len(tar) != shard.bytes:
        what = f"the tar has {len(tar)} bytes, the manifest says {shard.bytes}"
        problems.append(Problem(shard.sha256, None, None, what))
    elif not sound and not problems:
        size = f"it has {len(tar)} bytes instead of {shard.bytes}" if len(tar) != shard.bytes else "its sha256 is wrong"
        said = "no sample is hit" if rows else "without its index no more can be said"
        problems.append(Problem(shard.sha256, min(len(tar), shard.bytes), None, f"the tar is damaged: {size}; {said}"))
    return problems


def _cut(tar: bytes, shard: Shard, rows: Index | None, lost: set[int]) -> Problem:
    what = f"the tar ends here, after {len(tar)} of {shard.bytes} bytes" if tar else "the tar is empty"
    if not rows or not lost:
        return Problem(shard.sha256, len(tar), None, what)
    key = rows.keys[min(lost, key=lambda row: rows.offset[row])].as_py()
    return Problem(shard.sha256, len(tar), key, f"{what}; {len(lost)} samples are lost, this one first")


def _undecodable(tar: bytes, manifest: Manifest, shard: Shard, walk: _Walk) -> list[Problem]:
    """What can be said of samples without an index."""
    return [
        Problem(shard.sha256, member.offset, member.key, "the image does not decode")
        for member in walk.members
        if member.name.endswith(f".{suffix(manifest.encoding)}")
        and not _decodes(tar[member.offset : member.offset + member.size], manifest)
    ]


def _decodes(data: bytes, manifest: Manifest) -> bool:
    try:
        pixels = decode(data, manifest.encoding, manifest.channels)
    except Exception:  # damaged bytes make decoders raise anything
        return False
    return pixels.shape == (manifest.resolution, manifest.resolution, manifest.channels)


class _Samples:
    """Each row of an index against the tar: is the image there, under its name, with its bytes and its class?"""

    def __init__(self, tar: bytes, manifest: Manifest, shard: Shard, rows: Index, walk: _Walk, sound: bool):
        self.tar, self.view, self.manifest, self.shard, self.walk = tar, memoryview(tar), manifest, shard, walk
        self.sound, self.suffix, self.lost = sound, suffix(manifest.encoding), set[int]()
        self.keys: list[str] = rows.keys.to_pylist()
        self.offset, self.size = rows.offset.tolist(), rows.size.tolist()
        self.crc32, self.label = rows.crc32.tolist(), rows.label.tolist()
        self.by_name: dict[str, _Member] = {}
        for member in walk.members:
            self.by_name.setdefault(member.name, member)
        # A sample's part of the tar goes from the end of the image before it to the end of its own.
        self.order = sorted(range(len(self.keys)), key=lambda row: self.offset[row])
        self.ends = np.array([_padded(self.offset[row] + self.size[row]) for row in self.order], dtype=np.int64)
        self.hit = {self.owner(at) for at, _ in walk.faults}

    def owner(self, at: int) -> int | None:
        """The row of the sample whose part of the tar holds this byte."""
        place = int(np.searchsorted(self.ends, at, side="right"))
        return self.order[place] if place < len(self.order) else None

    def problems(self) -> list[Problem]:
        found = list[Problem]()
        for at, what in self.walk.faults:
            row = self.owner(at)
            if row is None:
                found.append(Problem(self.shard.sha256, at, None, "what follows the last sample is damaged"))
            else:
                found.append(Problem(self.shard.sha256, at, self.keys[row], what))
        return found + _joined([self.image(row) or self.class_of(row) for row in self.order]) + self.extra()

    def image(self, row: int) -> Problem | None:
        key, offset, size = self.keys[row], self.offset[row], self.size[row]
        member = self.by_name.get(f"{key}.{self.suffix}")
        here = member is not None and (member.offset, member.size) == (offset, size)
        if self.intact(row, offset):
            if not here and row not in self.hit:
                return self.problem(row, offset - _BLOCK, "the tar has no member of its name here")
            if self.sound or _decodes(self.bytes(offset, size), self.manifest):
                return None
            return self.problem(row, offset, "the image does not decode, though its crc32 is right")
        if self.sound:
            return self.problem(row, offset, "the index does not match the tar, which is sound")
        if member and not here and self.intact(row, member.offset):
            moved = member.offset - offset
            side = "after" if moved > 0 else "before"
            return self.problem(row, member.offset, f"the image lies {abs(moved)} bytes {side} where the index has it")
        if offset + size > len(self.tar) and not self.walk.ended:
            self.lost.add(row)
            return None
        if not member and row not in self.hit:
            return self.problem(row, max(0, offset - _BLOCK), "the image is missing from the tar")
        decodes = "decodes to other pixels" if _decodes(self.bytes(offset, size), self.manifest) else "does not decode"
        return self.problem(row, offset, f"the image is damaged: its crc32 is wrong, and it {decodes}")

    def class_of(self, row: int) -> Problem | None:
        member, label = self.by_name.get(f"{self.keys[row]}.cls"), self.label[row]
        if row in self.hit or row in self.lost:  # then that is told of already
            return None
        if member is None:
            return None if label < 0 else self.problem(row, None, f"its class, {label}, is missing from the tar")
        written = self.bytes(member.offset, min(member.size, 32))
        if written == str(label).encode():
            return None
        said = written.decode("ascii", "replace")
        return self.problem(row, member.offset, f"its class is {said!r} in the tar and {label} in the index")

    def extra(self) -> list[Problem]:
        keys, found = set(self.keys), []
        for member in self.walk.members:
            if self.by_name[member.name] is not member:
                found.append(Problem(self.shard.sha256, member.at, member.key, f"{member.name} is there twice"))
            elif member.key not in keys or member.name[len(member.key) + 1 :] not in (self.suffix, "cls"):
                found.append(Problem(self.shard.sha256, member.at, member.key, f"{member.name} is not in the index"))
        return found

    def intact(self, row: int, offset: int) -> bool:
        data = self.view[offset : offset + self.size[row]]
        return len(data) == self.size[row] and zlib.crc32(data) == self.crc32[row]

    def bytes(self, offset: int, size: int) -> bytes:
        return self.tar[offset : offset + size]

    def problem(self, row: int, offset: int | None, what: str) -> Problem:
        return Problem(self.shard.sha256, offset, self.keys[row], what)


_IN_A_ROW = ("missing from the tar", "where the index has it")


def _joined(problems: list[Problem | None]) -> list[Problem]:
    """A stretch of samples that are all missing, or all moved alike, as one problem, which names the first."""
    joined = list[Problem]()
    for what, group in groupby(problems, key=lambda problem: problem.what if problem else None):
        stretch = [problem for problem in group if problem]
        if what and len(stretch) > 1 and what.endswith(_IN_A_ROW):
            joined.append(replace(stretch[0], what=f"{what}; so with the {len(stretch) - 1} samples after it"))
        else:
            joined += stretch
    return joined
