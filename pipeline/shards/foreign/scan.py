"""One foreign tar, read once: a row for each of its samples, kept so that an unchanged tar is not read again.

<storage>/datasets/<name>/scans/<digest of the tar's URI and stamp, and of the rules>.parquet
"""

import hashlib
import io
import zlib
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.digest import digest
from pipeline.errors import UserError
from pipeline.ingest.image import PROCESSING, ImageRules, InvalidImage, decode
from pipeline.shards.foreign.find import FoundTar
from pipeline.shards.foreign.samples import BadLabel, Sample, group, images_of, label_of
from pipeline.shards.index import to_parquet
from pipeline.shards.manifest import dataset_folder, split_uri
from pipeline.shards.tar import Bytes, Member, Walk, open_tar, pieces, walk
from pipeline.shards.write import content_key
from pipeline.storage import Storage

_VERSION = 1  # raise it when the rows of the same tar change
_LARGEST = 1 << 28  # bytes of an image file

SCAN_SCHEMA = pa.schema(
    {
        "name": pa.string(),  # of the image's member; of the sample where it has none
        "key": pa.string(),  # content key; empty where there is no image
        "label": pa.string(),
        "reason": pa.string(),  # why it is quarantined; empty: it is not
        "detail": pa.string(),
        "offset": pa.int64(),
        "size": pa.int64(),
        "crc32": pa.uint32(),
        "width": pa.int32(),
        "height": pa.int32(),
        "mode": pa.string(),
        "begin": pa.int64(),
        "end": pa.int64(),
    }
)

_PACKERS = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


@dataclass(frozen=True)
class Job:
    """What all tars are indexed by. `image` is the part of a sample that is its image; None: its only one."""

    storage: Storage
    name: str
    rules: ImageRules
    image: str | None
    labels: str

    def path(self, tar: FoundTar) -> str:
        of = {
            "version": _VERSION, "uri": tar.uri, "stamp": tar.stamp, "rules": asdict(self.rules),
            "processing": PROCESSING, "image": self.image, "labels": self.labels,
        }  # fmt: skip
        return f"{dataset_folder(self.name)}/scans/{digest(of)}.parquet"


@dataclass(frozen=True)
class Refused:
    """A tar of which nothing is taken, because not all of it could be, and why."""

    uri: str
    why: str


def scan_tar(job: Job, tar: FoundTar) -> int | Refused:
    """Keeps the rows of a tar's samples, and says how many there are."""
    try:
        storage, path = split_uri(tar.uri)
        with open_tar(storage, path) as data:
            if len(data) != tar.size:
                return Refused(tar.uri, f"it has {len(data)} bytes and {tar.size} were listed: wait until it is whole")
            found = walk(data)
            if why := _refusal(data, found):
                return Refused(tar.uri, why)
            table = _rows(job, data, found).replace_schema_metadata({"sha256": _sha256(data), "bytes": str(len(data))})
    except _Ambiguous as ambiguous:
        return Refused(tar.uri, str(ambiguous))
    except (OSError, UserError) as error:
        return Refused(tar.uri, (str(error).splitlines() or [type(error).__name__])[0])
    job.storage.write(job.path(tar), to_parquet(table))
    return table.num_rows


def read_scan(job: Job, tar: FoundTar) -> tuple[pa.Table, str, int]:
    """The rows of a tar, its sha256, its bytes."""
    table = pq.read_table(io.BytesIO(job.storage.read(job.path(tar))))
    told = table.schema.metadata
    return table, told[b"sha256"].decode(), int(told[b"bytes"])


class _Ambiguous(Exception):
    """A sample that could be read in two ways."""


def _refusal(data: Bytes, found: Walk) -> str | None:
    hiding = [fault for fault in found.faults if fault.hides]
    if not len(data):
        return "it is empty; make or fetch it again"
    if not found.members:
        for magic, packer in _PACKERS.items():
            if data[: len(magic)] == magic:
                return f"it is packed with {packer}, and images are read by their place in a plain tar; unpack it"
        if hiding and hiding[0].at == 0:
            return "it is no tar, or damaged from its first byte; make or fetch it again"
    if hiding:
        more = f", and {len(hiding) - 1} more faults" if hiding[1:] else ""
        return f"at byte {hiding[0].at} {hiding[0].what}{more}; make or fetch it again"
    if not found.ended:
        return f"it ends at byte {len(data)} without a tar's end mark, as one that was cut; make or fetch it again"
    return None


def _rows(job: Job, data: Bytes, found: Walk) -> pa.Table:
    """In the tar's order. A key that comes back later in the tar is two samples to WebDataset: neither is taken."""
    samples = list(group(found.members))
    times: dict[str, int] = {}
    for sample in samples:
        times[sample.key] = times.get(sample.key, 0) + 1
    columns: dict[str, list] = {name: [] for name in SCAN_SCHEMA.names}
    for sample in samples:
        row = _row(job, data, sample, times[sample.key])
        for name, column in columns.items():
            column.append(row[name])
    return pa.table(columns, schema=SCAN_SCHEMA)


def _row(job: Job, data: Bytes, sample: Sample, times: int) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(SCAN_SCHEMA.names, 0)
    row |= {"name": sample.key, "key": "", "label": None, "reason": "", "detail": "", "mode": ""}
    row |= {"begin": sample.begin, "end": sample.end}
    images = images_of(sample, job.image)
    if len(images) > 1:
        parts = [member.name[len(sample.key) + 1 :] for member in images]
        raise _Ambiguous(
            f"sample {sample.key} has {len(images)} images, {' and '.join(parts[:8])}; say which: --image {parts[0]}"
        )
    if not images:
        wanted = f"no {job.image} among" if job.image else "no image among"
        return row | {"reason": "no_image", "detail": f"{wanted} {', '.join(list(sample.parts)[:8])}"}
    (image,) = images
    row |= {"name": image.name, "offset": image.offset, "size": image.size}
    if sample.repeated:
        return row | {"reason": "repeated_key", "detail": f"{sample.repeated.name} is there twice"}
    if times > 1:
        return row | {"reason": "repeated_key", "detail": f"key {sample.key} comes {times} times, not in a row"}
    if image.size > _LARGEST:
        return row | {"reason": "too_many_bytes", "detail": f"{image.size}, more than {_LARGEST}"}
    return row | _label(job, data, sample) | _image(job, data, image)


def _image(job: Job, data: Bytes, image: Member) -> dict[str, Any]:
    content = data[image.offset : image.offset + image.size]
    row: dict[str, Any] = {"key": content_key(content), "crc32": zlib.crc32(content)}
    try:
        decoded = decode(content, job.rules)
    except InvalidImage as error:
        return row | {"reason": error.reason, "detail": error.detail}
    return row | {"width": decoded.width, "height": decoded.height, "mode": decoded.mode}


def _label(job: Job, data: Bytes, sample: Sample) -> dict[str, Any]:
    try:
        return {"label": label_of(data, sample, job.labels)[0]}
    except BadLabel as bad:
        return {"reason": "bad_label", "detail": str(bad)}


def _sha256(data: Bytes) -> str:
    whole = hashlib.sha256()
    for piece in pieces(data):
        whole.update(piece)
    return whole.hexdigest()
