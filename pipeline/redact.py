"""Endpoints without their secrets, for what is written down or printed."""

import logging
import re
from typing import Any

# Up to the last @: a secret key pasted in unquoted may itself hold a slash. The authority must look like
# it holds one, so that a path with an @ in it stays as it is.
_USERINFO = re.compile(r"(?<=://)(?=[^/?#]*(?:@|:\D))[^?#]*@")
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+")
_HARMLESS = {"scheme", "region", "endpoint_override"}


def redact(text: str) -> str:
    """`text` as it is, unless it is a URI: then without user, password and the values of its query."""
    if "://" not in text:
        return text
    address, mark, query = _USERINFO.sub("***@", text).partition("?")
    return address + mark + "&".join(_redact_pair(pair) for pair in query.split("&"))


def redact_within(text: str) -> str:
    """A text with every URI in it redacted."""
    return _URI.sub(lambda found: redact(found[0]), text)


def redact_all(values: Any) -> Any:
    """JSON values with every string in them redacted."""
    if isinstance(values, dict):
        return {key: redact_all(value) for key, value in values.items()}
    if isinstance(values, list):
        return [redact_all(value) for value in values]
    return redact(values) if isinstance(values, str) else values


class RedactedRecord(logging.LogRecord):
    """For `logging.setLogRecordFactory`: whoever logs and whatever handles it, messages and traces are redacted."""

    def getMessage(self) -> str:
        return redact_within(super().getMessage())

    @property
    def exc_text(self) -> str | None:
        return self._exc_text

    @exc_text.setter
    def exc_text(self, text: str | None) -> None:
        self._exc_text = redact_within(text) if text else text


def _redact_pair(pair: str) -> str:
    key, equals, value = pair.partition("=")
    if key not in _HARMLESS:
        return key + equals + ("***" if equals else "")
    return key + equals + _USERINFO.sub("***@", value)
