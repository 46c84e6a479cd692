"""The service on Ray Serve: replicas of the app behind Serve's HTTP proxy."""

import json
import logging
import socket
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.config import HTTPOptions
from ray.serve.exceptions import RayServeException
from ray.serve.schema import LoggingConfig

from pipeline.errors import RunFailed, UserError
from pipeline.on_ray import cluster
from pipeline.serving.messages import MOST_SECONDS, MOST_WAITING
from pipeline.serving.settings import Settings

if TYPE_CHECKING:
    from fastapi import FastAPI

# Requests at a replica, and at the proxy while it has so many. More than the app lets wait: it refuses with a reason
# and a time to come again, where Serve would not.
_ONGOING, _QUEUED = 2 * MOST_WAITING, 256
_ANSWER_SECONDS = 30
# For the requests that a replica has when it is to end: longer than the last of them waits and is then made in. Serve's
# `delete` itself waits for a minute.
_ENDING_SECONDS, _ENDED_SECONDS = MOST_SECONDS + 25, 0.2
_NAME = "ganline"
log = logging.getLogger(__name__)
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}


class Replica:
    """Serve makes the app in each replica, after this."""

    def __init__(self, settings: Settings):
        self._settings = settings

    def __serve_build_asgi_app__(self) -> "FastAPI":
        from pipeline.serving.app import make_app  # torch takes seconds to import, and the command needs none

        return make_app(self._settings, serve.get_replica_context().replica_id.unique_id)


@contextmanager
def serving(
    settings: Settings, host: str, port: int, replicas: int, token: str | None = None
) -> Iterator[dict[str, Any]]:
    """The service answers within; gives what its `/healthz` says first to who has the `token` of the settings.

    Raises UserError for an address or a number of replicas that can not be had, RunFailed if it does not start.
    """
    _check_address(host, port)
    with cluster():
        cores = int(ray.cluster_resources().get("CPU", 0))
        if replicas > cores:
            raise UserError(f"--replicas {replicas} are more than the {cores} cores that Ray has; ask for fewer")
        if others := serve.status().applications:  # there is one proxy for all, and it is theirs
            raise UserError(
                f"this Ray cluster serves {', '.join(others)} already; end that, or use another RAY_ADDRESS"
            )
        try:
            yield _started(settings, host, port, replicas, token)
        finally:
            _end()


def _started(settings: Settings, host: str, port: int, replicas: int, token: str | None) -> dict[str, Any]:
    quiet = LoggingConfig(enable_access_log=False)
    deploy = serve.deployment(
        num_replicas=replicas, max_ongoing_requests=_ONGOING, max_queued_requests=_QUEUED, logging_config=quiet,
        graceful_shutdown_timeout_s=_ENDING_SECONDS, graceful_shutdown_wait_loop_s=_ENDED_SECONDS,
    )  # fmt: skip
    try:
        serve.start(http_options=HTTPOptions(host=host, port=port), logging_config=quiet)
        serve.run(deploy(serve.ingress()(Replica)).bind(settings), name=_NAME, route_prefix="/")
        return _health(host, port, token)
    except (RuntimeError, OSError, ValueError, RayServeException, RayError) as error:
        raise RunFailed(f"the service of {settings.reference} did not start: {_last_line(error)}") from None


def _end() -> None:
    """First the application, while the proxy lives and carries its last answers; then all of Serve."""
    try:
        serve.delete(_NAME)
    except Exception as error:
        log.warning("the requests under way were not all finished: %s", _last_line(error))
    finally:  # whatever it is, or a second signal: what was started is to end
        serve.shutdown()


def _check_address(host: str, port: int) -> None:
    try:
        kind, _, _, _, address = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(kind, socket.SOCK_STREAM) as probe:
            # Serve's proxies share a port with whoever else shares it; ours is to be ours.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise UserError(
            f"cannot serve at {host}:{port}: {error.strerror or error}; choose another --host or --port"
        ) from None


def _health(host: str, port: int, token: str | None) -> dict[str, Any]:
    """Through the front door, as anybody else."""
    near = _EVERYWHERE.get(host, host)
    address = f"[{near}]" if ":" in near else near
    # UTF-8, as the digest is of; what is written to the wire is Latin-1.
    headers = {} if token is None else {"Authorization": f"Bearer {token}".encode().decode("latin-1")}
    asked = urllib.request.Request(f"http://{address}:{port}/healthz", headers=headers)
    with urllib.request.urlopen(asked, timeout=_ANSWER_SECONDS) as answer:
        return json.load(answer)


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
