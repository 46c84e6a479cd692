"""Endpoints without their secrets, for what is written down or printed."""

import re

# Up to the last @: a secret key pasted in unquoted may itself hold a slash. The authority must look like
# it holds one, so that a path with an @ in it stays as it is.
_USERINFO = re.compile(r"(?<=://)(?=[^/?#]*(?:@|:\D))[^?#]*@")
_HARMLESS = {"scheme", "region", "endpoint_override"}


def redact(text: str) -> str:
    """`text` as it is, unless it is a URI: then without user, password and the values of its query."""
    if "://" not in text:
        return text
    address, mark, query = _USERINFO.sub("***@", text).partition("?")
    return address + mark + "&".join(_redact_pair(pair) for pair in query.split("&"))


def _redact_pair(pair: str) -> str:
    key, equals, value = pair.partition("=")
    if key not in _HARMLESS:
        return key + equals + ("***" if equals else "")
    return key + equals + _USERINFO.sub("***@", value)
