"""Files of tensors that can be computed again, each with a JSON file beside it that says of what, and its sha256."""

from typing import Any

from pipeline.progress import note
from pipeline.storage import Storage, sha256


def kept(storage: Storage, path: str, told: dict[str, Any], then: str) -> bytes | None:
    """What is kept of `told` at `path`, without its endings; None if there is nothing, or nothing whole: a note says
    what happens `then`."""
    try:
        known = storage.read_json(f"{path}.json")
        expected = known["sha256"] if told.items() <= known.items() else ""
        data = storage.read(f"{path}.safetensors")
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError):
        expected, data = "", b""
    if sha256(data) == expected:
        return data
    note(f"{path}.safetensors is damaged: {then}")
    return None


def keep(storage: Storage, path: str, told: dict[str, Any], data: bytes) -> None:
    storage.write(f"{path}.safetensors", data)
    # Written last: without it there is nothing.
    storage.write_json(f"{path}.json", {**told, "sha256": sha256(data)})
