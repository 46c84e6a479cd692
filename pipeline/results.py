"""Results of finished stages, by the digest of their inputs, so that unchanged work is not done twice.

    <storage>/results/<stage>/<digest of the inputs>.json

A result is small JSON that names things in storage or in the registry. They may be gone by the time it is
read: whoever uses a result checks what it names.
"""

from collections.abc import Iterator
from typing import Any

from pipeline.digest import digest
from pipeline.storage import Storage


def recall(storage: Storage, stage: str, inputs: dict[str, Any]) -> dict[str, Any] | None:
    """What the stage gave for these inputs, if it finished."""
    try:
        kept = storage.read_json(_path(stage, inputs))
    except (FileNotFoundError, ValueError):
        return None
    return kept["result"] if kept.get("inputs") == inputs else None


def remember(storage: Storage, stage: str, inputs: dict[str, Any], result: dict[str, Any]) -> None:
    storage.write_json(_path(stage, inputs), {"inputs": inputs, "result": result})


def all_of(storage: Storage, stage: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Inputs and result of each time that the stage finished, of what can be read."""
    for entry in storage.list(f"results/{stage}"):
        try:
            kept = storage.read_json(entry.path)
            yield kept["inputs"], kept["result"]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            continue


def _path(stage: str, inputs: dict[str, Any]) -> str:
    return f"results/{stage}/{digest(inputs)}.json"
