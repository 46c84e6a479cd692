"""A tar against its index and itself: which samples are hit by what, named by their keys and bytes."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
from isal import isal_zlib

from pipeline.shards.encoding import suffix
from pipeline.shards.foreign.samples import IMAGES, BadLabel, Sample, group, label_of, labels_rule
from pipeline.shards.manifest import FOREIGN, Manifest
from pipeline.shards.tar import BLOCK, Bytes, Member, Walk, key_of, pieces, walk
from pipeline.shards.verify_rows import Rows


@dataclass(frozen=True)
class Problem:
    """`shard`: its sha256, the URI of a foreign one, None for the version's own files; `offset` is in the shard's tar;
    `key` names the sample hit, as the tar does."""

    shard: str | None
    offset: int | None
    key: str | None
    what: str


@dataclass(frozen=True)
class Expected:
    """What a tar should be. `decodes`: whether bytes are an image as this dataset's are."""

    shard: str  # how problems name it
    sha256: str
    size: int
    manifest: Manifest
    decodes: Callable[[bytes], bool]

    @property
    def foreign(self) -> bool:
        return self.manifest.encoding == FOREIGN

    @property
    def suffixes(self) -> tuple[str, ...]:
        return IMAGES if self.foreign else (suffix(self.manifest.encoding),)


def check_tar(tar: Bytes, expected: Expected, rows: Rows | None) -> list[Problem]:
    """A tar against its sha256, its index, and, where it is not the one that was written, itself."""
    sound = _sha256(tar) == expected.sha256
    found = walk(tar, expected.size)
    if sound:  # then it is as it was written, and so are its headers
        found = replace(found, faults=[])
    if rows is None:
        problems = [Problem(expected.shard, fault.at, None, fault.what) for fault in found.faults]
        problems += [] if sound else _undecodable(tar, expected, found)
        lost = set[int]()
    else:
        samples = (_ForeignSamples if expected.foreign else _Samples)(tar, expected, rows, found, sound)
        problems, lost = samples.problems(), samples.lost
    if not found.ended and len(tar) < expected.size:
        problems.append(_cut(tar, expected, rows, lost))
    if sound and len(tar) != expected.size:
        what = f"the tar has {len(tar)} bytes, the manifest says {expected.size}"
        problems.append(Problem(expected.shard, None, None, what))
    elif not sound and not problems:
        size = f"it has {len(tar)} bytes instead of {expected.size}"
        size = size if len(tar) != expected.size else "its sha256 is wrong"
        said = "no sample is hit" if rows else "without its index no more can be said"
        at = min(len(tar), expected.size)
        problems.append(Problem(expected.shard, at, None, f"the tar is damaged: {size}; {said}"))
    return problems


def _sha256(tar: Bytes) -> str:
    digest = hashlib.sha256()
    for piece in pieces(tar):
        digest.update(piece)
    return digest.hexdigest()


def _cut(tar: Bytes, expected: Expected, rows: Rows | None, lost: set[int]) -> Problem:
    what = f"the tar ends here, after {len(tar)} of {expected.size} bytes" if len(tar) else "the tar is empty"
    if not rows or not lost:
        return Problem(expected.shard, len(tar), None, what)
    first = min(lost, key=lambda row: rows.offset[row])
    return Problem(expected.shard, len(tar), rows.key(first), f"{what}; {len(lost)} samples are lost, this one first")


def _undecodable(tar: Bytes, expected: Expected, found: Walk) -> list[Problem]:
    """What can be said of samples without an index."""
    return [
        Problem(expected.shard, member.offset, member.key, "the image does not decode")
        for member in found.members
        if member.name.rpartition(".")[2].lower() in expected.suffixes
        and not expected.decodes(tar[member.offset : member.offset + member.size])
    ]


class _Samples:
    """Each row of an index against the tar: is the image there, under its name, with its bytes and its class?"""

    no_sample = "what follows the last sample is damaged"

    def __init__(self, tar: Bytes, expected: Expected, rows: Rows, found: Walk, sound: bool):
        self.tar, self.expected, self.rows, self.walk, self.sound = tar, expected, rows, found, sound
        self.lost = set[int]()
        self.by_name: dict[str, Member] = {}
        for member in found.members:
            self.by_name.setdefault(member.name, member)
        self.order = sorted(range(len(rows.name)), key=lambda row: rows.end[row])
        self.ends = np.array([rows.end[row] for row in self.order], dtype=np.int64)
        self.hit = {self.owner(fault.at) for fault in found.faults}

    def owner(self, at: int) -> int | None:
        """The row of the sample whose part of the tar holds this byte."""
        place = int(np.searchsorted(self.ends, at, side="right"))
        if place == len(self.order) or self.rows.begin[self.order[place]] > at:
            return None
        return self.order[place]

    def problems(self) -> list[Problem]:
        found = list[Problem]()
        for fault in self.walk.faults:
            row = self.owner(fault.at)
            if row is None:
                found.append(Problem(self.expected.shard, fault.at, None, self.no_sample.format(what=fault.what)))
            else:
                found.append(self.problem(row, fault.at, fault.what))
        return found + _joined([self.image(row) or self.class_of(row) for row in self.order]) + self.extra()

    def image(self, row: int) -> Problem | None:
        offset, size = self.rows.offset[row], self.rows.size[row]
        member = self.by_name.get(self.rows.name[row])
        here = member is not None and (member.offset, member.size) == (offset, size)
        if self.intact(row, offset):
            if not here and row not in self.hit:
                return self.problem(row, offset - BLOCK, "the tar has no member of its name here")
            if self.sound or self.decodes(offset, size):
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
            return self.problem(row, max(0, offset - BLOCK), "the image is missing from the tar")
        decodes = "decodes to other pixels" if self.decodes(offset, size) else "does not decode"
        return self.problem(row, offset, f"the image is damaged: its crc32 is wrong, and it {decodes}")

    def class_of(self, row: int) -> Problem | None:
        if row in self.hit or row in self.lost:  # then that is told of already
            return None
        wanted, (written, offset) = self.class_wanted(row), self.class_written(row)
        if written == wanted:
            return None
        if written is None:
            return self.problem(row, offset, f"its class, {wanted}, is missing from the tar")
        return self.problem(row, offset, f"its class is {written!r} in the tar and {wanted} in the index")

    def class_wanted(self, row: int) -> str | None:
        return str(self.rows.label[row]) if self.rows.label[row] >= 0 else None

    def class_written(self, row: int) -> tuple[str | None, int | None]:
        member = self.by_name.get(f"{self.rows.key(row)}.cls")
        if member is None:
            return None, None
        return self.bytes(member.offset, min(member.size, 32)).decode("ascii", "replace"), member.offset

    def extra(self) -> list[Problem]:
        names, found = set(self.rows.name), []
        keys = {key_of(name) for name in names}
        for member in self.walk.members:
            if self.by_name[member.name] is not member:
                found.append(Problem(self.expected.shard, member.at, member.key, f"{member.name} is there twice"))
            elif member.name not in names and not (member.key in keys and member.name == f"{member.key}.cls"):
                found.append(Problem(self.expected.shard, member.at, member.key, f"{member.name} is not in the index"))
        return found

    def intact(self, row: int, offset: int) -> bool:
        if offset + self.rows.size[row] > len(self.tar):
            return False
        return isal_zlib.crc32(self.bytes(offset, self.rows.size[row])) == self.rows.crc32[row]

    def decodes(self, offset: int, size: int) -> bool:
        return self.expected.decodes(self.bytes(offset, size))

    def bytes(self, offset: int, size: int) -> bytes:
        return self.tar[offset : offset + size]

    def problem(self, row: int, offset: int | None, what: str) -> Problem:
        return Problem(self.expected.shard, offset, self.rows.key(row), what)


class _ForeignSamples(_Samples):
    """Of a tar that may hold more than the index has, and whose labels were read by a rule."""

    no_sample = "{what}; no sample is hit"

    def __init__(self, tar: Bytes, expected: Expected, rows: Rows, found: Walk, sound: bool):
        super().__init__(tar, expected, rows, found, sound)
        self.rule = labels_rule(expected.manifest)
        self.sample_of: dict[str, Sample] = {
            member.name: sample for sample in group(found.members) for member in sample.parts.values()
        }

    def class_wanted(self, row: int) -> str | None:
        label, classes = self.rows.label[row], self.expected.manifest.classes
        return None if label < 0 else classes[label] if label < len(classes) else str(label)

    def class_written(self, row: int) -> tuple[str | None, int | None]:
        sample = self.sample_of.get(self.rows.name[row])
        if sample is None:
            return None, None
        try:
            text, member = label_of(self.tar, sample, self.rule)
        except BadLabel as bad:
            return str(bad), bad.member.offset
        return text, member.offset if member else None

    def extra(self) -> list[Problem]:
        return []


_IN_A_ROW = ("missing from the tar", "where the index has it")


def _joined(problems: list[Problem | None]) -> list[Problem]:
    """A stretch of samples that are all missing, or all moved alike, as one problem, which names the first."""
    joined = list[Problem]()
    for what, same in groupby(problems, key=lambda problem: problem.what if problem else None):
        stretch = [problem for problem in same if problem]
        if what and len(stretch) > 1 and what.endswith(_IN_A_ROW):
            joined.append(replace(stretch[0], what=f"{what}; so with the {len(stretch) - 1} samples after it"))
        else:
            joined += stretch
    return joined
