"""The pages for people: each needs nothing but this service."""

import base64
import hashlib
import json
import re
from importlib import resources
from typing import Any

import jinja2

# Of what somebody else made: it may look as it likes, and do nothing.
_LOOKS = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; form-action 'none'; base-uri 'none'"
LOCKED_UP = {"Content-Security-Policy": f"sandbox; {_LOOKS}", "X-Content-Type-Options": "nosniff"}

_INLINE = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)
_DOCTYPE = re.compile(rb"(\xef\xbb\xbf)?\s*<!doctype[^>]*>", re.IGNORECASE)


def locked_up(document: bytes) -> bytes:
    """An HTML page of somebody else with the policy in itself, before all else: a saved one has lost its headers."""
    begun = _DOCTYPE.match(document)
    place = begun.end() if begun else 0  # before the doctype it would make the browser ignore that
    meta = f'<meta http-equiv="Content-Security-Policy" content="{_LOOKS}">'
    return document[:place] + meta.encode() + document[place:]


def page() -> tuple[str, str]:
    """The page at `/` and its content security policy."""
    text = _read("page.html")
    return text, _policy(text)


def docs_page(schema: dict[str, Any]) -> tuple[str, str]:
    """What an OpenAPI document says, for reading, and its content security policy."""
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"limits": _limits, "example": json.dumps}
    operations = [
        (method.upper(), path, operation)
        for path, methods in schema["paths"].items()
        for method, operation in methods.items()
    ]
    fields = schema["components"]["schemas"]["ImagesRequest"]
    text = environment.from_string(_read("docs.html")).render(operations=operations, fields=fields, info=schema["info"])
    return text, _policy(text)


def _limits(field: dict[str, Any]) -> str:
    """A JSON schema's type and bounds, in words."""
    if "anyOf" in field:
        return " or ".join(_limits(each) for each in field["anyOf"])
    said = field.get("type", "")
    if "enum" in field:
        said = " or ".join(map(str, field["enum"]))
    if said == "null":
        return "nothing"
    bounds = {"minimum": "from {}", "maximum": "to {}", "exclusiveMaximum": "below {}", "maxLength": "up to {} letters"}
    return " ".join([said, *(words.format(_plain(field[key])) for key, words in bounds.items() if key in field)])


def _plain(bound: float) -> float:
    return int(bound) if bound == int(bound) else bound


def _policy(text: str) -> str:
    """Only the scripts and styles that stand in the page, pictures in data, and requests to this service."""
    hashes: dict[str, list[str]] = {"script": [], "style": []}
    for kind, body in _INLINE.findall(text):
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        hashes[kind].append(f"'sha256-{digest}'")
    rules = [f"{kind}-src {' '.join(found)}" for kind, found in hashes.items() if found]
    return "; ".join(
        ["default-src 'none'", *rules, "img-src data:", "connect-src 'self'", "base-uri 'none'", "form-action 'none'"]
    )


def _read(name: str) -> str:
    return (resources.files("pipeline.serving") / name).read_text()
