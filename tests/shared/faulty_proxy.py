"""A proxy between an S3 client and its server that fails at the requests that it is told to fail at."""

import http.client
import random
import select
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

# busy: 503. reset: the connection is reset in mid-body. cut: it is closed in mid-body. short: half a body, and a
# Content-Length that says so. stall: half a body, then nothing. lost: done, but the answer does not come back.
# slow: a second late, else well. In mid-body of the answer, or of the request where that has one.
Fault = Literal["busy", "reset", "cut", "short", "stall", "lost", "slow"]
FAULTS: tuple[Fault, ...] = ("busy", "reset", "cut", "short", "lost", "stall")

_BUSY = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
_OWN = {"connection", "content-length", "transfer-encoding"}


@dataclass
class Plan:
    """What to do to a request of this method whose path and query contain `path`: to this `share` of them by lot."""

    fault: Fault
    times: int
    share: float
    method: str
    path: str

    def hits(self, method: str, path: str, lot: float) -> bool:
        if self.times == 0 or self.method not in ("", method) or self.path not in path or lot >= self.share:
            return False
        self.times -= 1
        return True


class FaultyProxy(ThreadingHTTPServer):
    """`requests` are those that came, as (method, path and query); `hit` those that were failed at; `moved` the bytes
    of bodies that came, and of those that were answered."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, upstream: str):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream, self.address = upstream, f"127.0.0.1:{self.server_address[1]}"
        self.requests, self.hit = list[tuple[str, str]](), list[tuple[str, str]]()
        self.moved = 0
        self.closing = threading.Event()
        self._plans = list[Plan]()
        self._lots = random.Random(0)
        self._lock = threading.Lock()

    def fail(self, fault: Fault, times: int = 1, *, share: float = 1.0, method: str = "", path: str = "") -> None:
        """On top of what it was told before. `times` below zero: for ever."""
        with self._lock:
            self._plans.append(Plan(fault, times, share, method, path))

    def forget(self) -> None:
        """Fails no more, and counts from zero."""
        with self._lock:
            self._plans.clear()
            self.requests.clear()
            self.hit.clear()
            self.moved = 0

    def count(self, method: str, path: str = "") -> int:
        return sum(one == method and path in other for one, other in self.requests)

    def fault_of(self, method: str, path: str) -> Fault | None:
        with self._lock:
            self.requests.append((method, path))
            for plan in self._plans:
                if plan.hits(method, path, self._lots.random()):
                    self.hit.append((method, path))
                    return plan.fault
        return None

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that has gone is no news here."""


@contextmanager
def faulty_proxy(upstream: str) -> Iterator[FaultyProxy]:
    proxy = FaultyProxy(upstream)
    thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield proxy
    finally:
        proxy.closing.set()
        proxy.shutdown()
        thread.join()
        proxy.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: FaultyProxy

    def serve(self) -> None:
        fault = self.server.fault_of(self.command, self.path)
        size = int(self.headers.get("Content-Length") or 0)
        if size and fault in ("reset", "cut", "stall"):
            self.rfile.read(size // 2)
            return self._break_off(fault)
        body = self.rfile.read(size)
        if fault == "slow":
            self.server.closing.wait(1.0)
        if fault == "busy":
            return self._answer(503, "Slow Down", [], _BUSY if self.command != "HEAD" else b"", None)
        answer, data = self._ask(body)
        head = [(name, value) for name, value in answer.getheaders() if name.lower() not in _OWN]
        length = int(answer.getheader("Content-Length") or len(data))
        half = data[: len(data) // 2]
        if fault == "short":
            self._answer(answer.status, answer.reason, head, half, None if data else length)
        elif fault in ("reset", "cut", "stall", "lost"):
            if data and fault != "lost":
                self._answer(answer.status, answer.reason, head, half, length)
            self._break_off(fault)
        else:
            self._answer(answer.status, answer.reason, head, data, length)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = serve

    def _ask(self, body: bytes) -> tuple[http.client.HTTPResponse, bytes]:
        # The signature is over the client's own headers, Host among them.
        upstream = http.client.HTTPConnection(self.server.upstream, timeout=60)
        upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            upstream.putheader(name, value)
        upstream.endheaders(body or None)
        answer = upstream.getresponse()
        data = answer.read()
        upstream.close()
        self.server.moved += len(body) + len(data)
        return answer, data

    def _answer(self, status: int, reason: str, head: list[tuple[str, str]], data: bytes, length: int | None) -> None:
        self.send_response_only(status, reason)
        for name, value in head:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data) if length is None else length))
        self.end_headers()
        self.wfile.write(data)

    def _break_off(self, fault: Fault) -> None:
        self.close_connection = True
        while fault == "stall" and not self.server.closing.is_set():
            if select.select([self.connection], [], [], 0.05)[0] and not self.connection.recv(1 << 16):
                return
        if fault in ("reset", "lost"):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: it counts."""
