"""From the members of a tar to samples by WebDataset's rule, and from a sample to its image and its label."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from pipeline.shards.manifest import Manifest
from pipeline.shards.tar import Bytes, Member

IMAGES = ("png", "jpg", "jpeg", "webp", "npy")
AUTO, NONE, CLS = "auto", "none", "cls"  # what `labels` may say, beside a key of the .json
_AUTO_KEYS = ("label", "class")
_META = re.compile(r"__[^/]*__($|/)")  # what WebDataset keeps for itself
_LARGEST_LABEL = 1 << 20  # bytes of a .cls or a .json


@dataclass
class Sample:
    """Members that follow each other and have the same key; `parts` by what comes after it, in lower case."""

    key: str
    parts: dict[str, Member] = field(default_factory=dict)
    repeated: Member | None = None  # a second one of the same part

    @property
    def begin(self) -> int:
        return min(member.at for member in self.parts.values())

    @property
    def end(self) -> int:
        return max(member.padded_end for member in self.parts.values())


class BadLabel(Exception):
    """Says why, and where."""

    def __init__(self, member: Member, what: str):
        super().__init__(f"{member.name}: {what}")
        self.member = member


def group(members: list[Member]) -> Iterator[Sample]:
    """The key is the path up to the first dot of the base name. Files without one, and hidden ones, are no samples."""
    sample: Sample | None = None
    for member in members:
        stem, dot, part = member.name.rpartition("/")[2].partition(".")
        if not (stem and dot) or _META.match(member.name):
            continue
        if sample is None or sample.key != member.key:
            if sample:
                yield sample
            sample = Sample(member.key)
        if part.lower() in sample.parts:
            sample.repeated = sample.repeated or member
        else:
            sample.parts[part.lower()] = member
    if sample:
        yield sample


def images_of(sample: Sample, wanted: str | None) -> list[Member]:
    """Its image members; only the one called `wanted`, if that is given."""
    if wanted is not None:
        return [sample.parts[wanted]] if wanted in sample.parts else []
    return [member for part, member in sample.parts.items() if part.rpartition(".")[2] in IMAGES]


def label_of(tar: Bytes, sample: Sample, labels: str) -> tuple[str | None, Member | None]:
    """A sample's class as text, and the member that it is from. Raises BadLabel where that can not be read."""
    if labels == NONE:
        return None, None
    if labels in (AUTO, CLS) and (member := sample.parts.get("cls")):
        return _text(member, _read(tar, member)), member
    if labels == CLS or (member := sample.parts.get("json")) is None:
        return None, None
    try:
        values = json.loads(_read(tar, member))
    except (ValueError, RecursionError):
        raise BadLabel(member, "is not JSON") from None
    if not isinstance(values, dict):
        raise BadLabel(member, "is no JSON object")
    for key in _AUTO_KEYS if labels == AUTO else (labels,):
        value = values.get(key)
        if isinstance(value, bool | float | list | dict):
            raise BadLabel(member, f"its {key} is neither a whole number nor text")
        if value is not None:
            return _text(
                member, value.encode("utf-8", "surrogatepass") if isinstance(value, str) else b"%d" % value
            ), member
    return None, member


def labels_rule(manifest: Manifest) -> str:
    """The one by which a version was indexed."""
    told = manifest.processing.get("tar")
    return str(told.get("labels")) if isinstance(told, dict) else AUTO


def _read(tar: Bytes, member: Member) -> bytes:
    if member.size > _LARGEST_LABEL:
        raise BadLabel(member, f"has {member.size} bytes")
    return tar[member.offset : member.offset + member.size]


def _text(member: Member, data: bytes) -> str:
    try:
        text = data.decode().strip()
    except UnicodeDecodeError:
        raise BadLabel(member, "is not UTF-8") from None
    if not text or len(text) > 200:
        raise BadLabel(member, f"has {len(text)} characters, a class has 1 to 200")
    return text
