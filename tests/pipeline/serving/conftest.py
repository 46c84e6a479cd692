"""One registry with a few releases, and the app without Ray."""

import asyncio
import os
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
import uvicorn

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when mlflow is imported

from fastapi import FastAPI
from releases import Releases

from pipeline.serving.app import make_app
from pipeline.serving.settings import Settings
from pipeline.storage import Storage


@pytest.fixture(scope="session")
def releases(tmp_path_factory) -> Releases:
    """Version 1 is champion, version 2 is there to be promoted, version 3 was refused, version 4 has a page."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        releases = Releases(Storage(str(tmp_path_factory.mktemp("root"))))
        releases.promote(releases.release(0))
        releases.release(1)
        releases.refuse(releases.release(2), "Frechet distance 21.5: worse than version 1")
        releases.add_page(releases.release(3))
        return releases


@pytest.fixture(autouse=True)
def alone(monkeypatch, releases) -> Iterator[None]:
    """Without a server, and the first version is champion before each."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    yield
    releases.promote(1)


@pytest.fixture
def settings(releases) -> Settings:
    return Settings("dots@champion", releases.storage.uri)


@pytest.fixture
def ask(settings) -> Callable[..., Any]:
    """Runs `act(client, app)` while the app is up, in an event loop of its own."""

    def run(act: Callable[[httpx.AsyncClient, FastAPI], Awaitable[Any]], settings: Settings = settings) -> Any:
        async def up() -> Any:
            app = make_app(settings)
            transport = httpx.ASGITransport(app)
            async with (
                app.router.lifespan_context(app),
                httpx.AsyncClient(transport=transport, base_url="http://service") as client,
            ):
                return await act(client, app)

        return asyncio.run(up())

    return run


@pytest.fixture
def live() -> Callable[..., Any]:
    """A context in which the app answers at the address that it gives."""

    @contextmanager
    def serve(settings: Settings) -> Iterator[str]:
        server = uvicorn.Server(uvicorn.Config(make_app(settings), port=0, log_level="error"))
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive()
                time.sleep(0.01)
            yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()

    return serve
