"""Digests of plain values, so that a stage's inputs have one name everywhere."""

import hashlib
import json
from typing import Any


def canonical_json(value: Any) -> bytes:
    """Sorted keys, no white space, UTF-8; raises ValueError for NaN and infinities."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def digest(value: Any) -> str:
    """sha256 in hex over the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value)).hexdigest()
