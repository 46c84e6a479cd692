"""What stands before the service: who may enter, how much one may bring, and who counts."""

import asyncio
import hashlib
import hmac
import json
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.serving.figures import Figures
from pipeline.serving.messages import MOST_BODY

# They tell nothing of the model, /healthz nothing but its status to who has no token.
OPEN = frozenset({"/", "/healthz", "/docs", "/openapi.json"})

KNOWN = "ganline.known"  # in the scope: whether who asks may be told of the model
GONE = 499  # what proxies call a visitor who did not wait; nobody gets it as an answer


class _Gone(Exception):
    """The visitor has, amid the request."""


class Door:
    """ASGI middleware. With `token_sha256` everything but `OPEN` wants `Authorization: Bearer TOKEN`."""

    def __init__(self, app: ASGIApp, figures: Figures, token_sha256: str | None):
        self._app, self._figures, self._token_sha256 = app, figures, token_sha256

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, status = time.perf_counter(), 0
        headers = {name.lower(): value for name, value in scope["headers"]}

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        known = scope[KNOWN] = self._is_known(headers.get(b"authorization", b""))
        try:
            if not known and scope["path"] not in OPEN:
                await _refuse(noting, 401, "a token is needed: Authorization: Bearer TOKEN", b"Bearer")
            elif (body := await _whole_body(receive)) is None:
                await _refuse(noting, 413, f"the body has more than {MOST_BODY:,} bytes")
            else:
                await self._app(scope, _given(body, receive), noting)
        except _Gone:
            status = GONE
        except asyncio.CancelledError:  # so the proxy tells of a visitor who has gone
            status = status or GONE
            raise
        finally:
            # The route's own words, not the visitor's: their number is known.
            path = getattr(scope.get("route"), "path", "other")
            self._figures.answered(path, status or 500, time.perf_counter() - begun)

    def _is_known(self, given: bytes) -> bool:
        if self._token_sha256 is None:
            return True
        kind, _, token = given.partition(b" ")
        # Of digests: the time that it takes tells nothing of the token, not even its length.
        same = hmac.compare_digest(hashlib.sha256(token.strip()).hexdigest(), self._token_sha256)
        return same and kind.lower() == b"bearer"


async def _whole_body(receive: Receive) -> bytes | None:
    """None if it is too large, without waiting for the rest of it. Raises _Gone if that does not come."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise _Gone
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > MOST_BODY:
            return None
    return body


def _given(body: bytes, receive: Receive) -> Receive:
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def _refuse(send: Send, status: int, why: str, scheme: bytes | None = None) -> None:
    headers = [(b"content-type", b"application/json")]
    if scheme:
        headers.append((b"www-authenticate", scheme))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps({"detail": why}).encode()})
