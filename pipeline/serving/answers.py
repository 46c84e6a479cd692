"""Images as one PNG, as a zip, or as base64 in JSON."""

import base64
import csv
import io
import json
import zipfile
from collections.abc import Sequence
from typing import Any

from pipeline.serving.messages import Kind

TYPES: dict[Kind, str] = {"png": "image/png", "zip": "application/zip", "json": "application/json"}


class NotAcceptable(Exception):
    """The Accept header leaves nothing that can hold so many images."""


def kind_of(accept: str, n: int) -> Kind:
    """What the Accept header likes best among what can hold `n` images; raises NotAcceptable."""
    possible: list[Kind] = ["png", "json", "zip"] if n == 1 else ["zip", "json"]
    liked = {kind: _quality(accept, TYPES[kind]) for kind in possible}
    best = max(possible, key=lambda kind: liked[kind])  # the first of equals
    if not liked[best]:
        names = " or ".join(TYPES[kind] for kind in possible)
        raise NotAcceptable(f"{n} image{'s' if n > 1 else ''} can be had as {names}; see the field `format` too")
    return best


def zip_of(pngs: Sequence[bytes], labels: Sequence[str | None], about: dict[str, Any]) -> bytes:
    """`00000.png` ... and `labels.csv` as `ganline generate` makes them, and `about.json`."""
    table, buffer = io.StringIO(), io.BytesIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(["file", "label"])
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:  # PNGs are compressed already
        for index, (png, label) in enumerate(zip(pngs, labels, strict=True)):
            archive.writestr(f"{index:05d}.png", png)
            rows.writerow([f"{index:05d}.png", label or ""])
        archive.writestr("labels.csv", table.getvalue())
        archive.writestr("about.json", json.dumps(about))
    return buffer.getvalue()


def json_of(pngs: Sequence[bytes], labels: Sequence[str | None], about: dict[str, Any]) -> bytes:
    """`pipeline.serving.messages.Images`."""
    images = [
        {"index": index, "label": label, "png": base64.b64encode(png).decode()}
        for index, (png, label) in enumerate(zip(pngs, labels, strict=True))
    ]
    return json.dumps({**about, "images": images}).encode()


def _quality(accept: str, kind: str) -> float:
    """How much a media type is liked, 0 to 1: the most exact range that names it says (RFC 9110, 12.5.1)."""
    if not accept.strip():
        return 1.0
    told: dict[str, float] = {}
    for each in accept.split(","):
        name, *parameters = [part.strip().lower() for part in each.split(";")]
        told[name] = _weight(parameters)
    for name in (kind, f"{kind.partition('/')[0]}/*", "*/*"):
        if name in told:
            return told[name]
    return 0.0


def _weight(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return min(max(float(value), 0.0), 1.0)
            except ValueError:
                return 0.0
    return 1.0
