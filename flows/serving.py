"""The command that serves a release over HTTP."""

import hashlib
import os
import threading
from typing import Annotated

import typer

from flows.command import run_command, working
from flows.console import Console
from flows.options import Json, Reference, StorageOption, existing
from pipeline.errors import Terminated, UserError

TOKEN = "GANLINE_TOKEN"
_HERE = ("127.0.0.1", "localhost", "::1")


def add_to(app: typer.Typer) -> None:
    app.command()(serve)


def serve(
    reference: Reference,
    port: Annotated[int, typer.Option(min=1, max=65535, help="where it listens")] = 8000,
    host: Annotated[str, typer.Option(help="0.0.0.0 for other machines too")] = "127.0.0.1",
    replicas: Annotated[int, typer.Option(min=1, help="processes that make images, a core each")] = 1,
    storage: StorageOption = None,
    as_json: Json = False,
) -> None:
    """Serves a released model over HTTP until it is stopped by Ctrl-C or SIGTERM.

    When the alias moves, it serves the new version within seconds, without a pause. With GANLINE_TOKEN set, requests
    need that token. A page for people is at /, how to ask at /docs.

    Example: ganline serve mnist@champion --port 8000
    """

    def act(console: Console) -> None:
        place = existing(storage)
        token = _token()
        with working(console, None, "serve"), console.progress():
            from pipeline.registry.lookup import lookup

            found = lookup(reference, place)
        with working(console, place, "serve"):
            if token is None and host not in _HERE:
                console.say(f"anybody who reaches {host}:{port} may ask for images; set {TOKEN} to want a token")
            from pipeline.serving.on_ray import serving
            from pipeline.serving.settings import Settings

            digest = None if token is None else hashlib.sha256(token.encode()).hexdigest()
            with serving(Settings(reference, place.uri, digest), host, port, replicas, token) as health:
                address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
                values = {"address": address, "model": found.model, "version": health["version"]}
                console.result(values, [f"{address} serves {found.model} version {health['version']}"])
                how = _until_stopped()
            console.say(f"stopped by {how}")

    run_command(act, as_json)


def _token() -> str | None:
    token = os.environ.get(TOKEN)
    if token is not None and not token.strip():
        raise UserError(f"{TOKEN} is empty; set it to the token that requests must have, or unset it for none")
    return token.strip() if token else None


def _until_stopped() -> str:
    """Which is how a service is meant to end."""
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        return "Ctrl-C"
    except Terminated:
        return "SIGTERM"
    raise AssertionError
