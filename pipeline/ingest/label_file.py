"""Labels by path from a JSON file: a plain mapping, or StyleGAN's dataset.json."""

import json
from typing import Any

from pipeline.errors import UserError
from pipeline.ingest.place import Place


def read_labels(uri: str) -> dict[str, str]:
    """`{"path": "label", ...}` or `{"labels": [["path", 3], ...]}`; raises UserError."""
    place = Place(uri)
    try:
        values = json.loads(place.read(place.path))
    except FileNotFoundError:
        raise UserError(f"no file {place} for data.labels; give auto, none, column:NAME or a JSON file") from None
    except OSError as error:
        raise place.refuse(error) from None
    except ValueError as error:
        raise UserError(f"{place} is no JSON file of labels: {error}; {_FORMS}") from None
    pairs: Any = list(values.items()) if isinstance(values, dict) else None
    if isinstance(values, dict) and isinstance(values.get("labels"), list):
        pairs = values["labels"]
    if not isinstance(pairs, list) or not all(_is_pair(pair) for pair in pairs):
        raise UserError(f"{place} does not hold a label for each path; {_FORMS}")
    return {path: str(label) for path, label in pairs}


_FORMS = 'write {"path": "label"} or {"labels": [["path", 3]]}'


def _is_pair(pair: Any) -> bool:
    return (
        isinstance(pair, list | tuple)
        and len(pair) == 2
        and isinstance(pair[0], str)
        and isinstance(pair[1], str | int)
        and not isinstance(pair[1], bool)
    )
