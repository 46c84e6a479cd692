"""The service as an ASGI app, whatever runs it."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Path, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from pipeline.errors import Unavailable, UserError
from pipeline.registry.artifact import ArtifactError
from pipeline.registry.generator import Generator
from pipeline.serving.answers import TYPES, NotAcceptable, json_of, kind_of, zip_of
from pipeline.serving.batching import Batcher, Busy
from pipeline.serving.current import Current
from pipeline.serving.door import KNOWN, Door
from pipeline.serving.figures import Figures
from pipeline.serving.messages import (
    MOST_BODY,
    MOST_IMAGES,
    MOST_TRUNCATION,
    MOST_WAITING,
    Health,
    Images,
    ImagesRequest,
    Model,
    Versions,
    refusals,
)
from pipeline.serving.pages import LOCKED_UP, docs_page, locked_up, page
from pipeline.serving.settings import Settings
from pipeline.serving.versions import KnownVersions
from pipeline.storage import Storage

_IMAGES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "the images; X-Ganline-Version and X-Ganline-Model say of what release",
        "model": Images,
        "content": {
            TYPES["png"]: {"schema": {"type": "string", "format": "binary"}},
            TYPES["zip"]: {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


class _App:
    """What the routes share once the generator is there."""

    def __init__(self, current: Current, batcher: Batcher, versions: KnownVersions):
        self.current, self.batcher, self.versions = current, batcher, versions


def make_app(settings: Settings, replica: str = "0") -> FastAPI:
    """Its lifespan begins with loading the release, and ends with what is being made."""
    figures = Figures(replica)
    storage = Storage(settings.storage_uri)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        current = await asyncio.to_thread(Current, settings.reference, storage, figures)
        batcher = Batcher(figures)
        app.state.ganline = _App(current, batcher, KnownVersions(current.found.model, storage))
        follower = asyncio.create_task(current.follow())
        yield
        follower.cancel()
        await batcher.close()

    app = FastAPI(
        title="Ganline", version="1", summary="Images of a released generator.",
        docs_url=None, redoc_url=None, lifespan=lifespan,
    )  # fmt: skip
    app.add_middleware(Door, figures=figures, token_sha256=settings.token_sha256)
    _add_errors(app)
    _add_images(app, figures)
    _add_release(app, settings)
    _add_pages(app, figures)
    return app


def _add_images(app: FastAPI, figures: Figures) -> None:
    @app.post(
        "/v1/images", response_class=Response, responses={**_IMAGES, **refusals(400, 401, 406, 413, 422, 503)},
        summary="Makes images", tags=["images"],
    )  # fmt: skip
    async def images(wanted: ImagesRequest, request: Request) -> Response:
        """Image i depends on the seed, i and its class alone, and on the version, which the answer names."""
        ganline: _App = request.app.state.ganline
        generator = ganline.current.generator  # one version for the whole answer, whatever the alias does meanwhile
        assert generator.found is not None
        kind = wanted.format or kind_of(",".join(request.headers.getlist("accept")), wanted.n)
        if kind == "png" and wanted.n > 1:
            raise HTTPException(422, f"format: one PNG holds one image, not {wanted.n}; ask for zip or json")
        labels = _labels(generator, wanted)
        pngs = await ganline.batcher.pngs(generator, wanted.n, wanted.seed, labels, wanted.truncation)
        figures.images.inc(wanted.n)
        about = {
            "model": generator.found.model, "version": generator.found.version,
            "seed": wanted.seed, "truncation": wanted.truncation,
        }  # fmt: skip
        names = [generator.class_names[label] for label in labels] if labels else [None] * wanted.n
        if kind == "png":
            body = pngs[0]
        else:
            body = await asyncio.to_thread(zip_of if kind == "zip" else json_of, pngs, names, about)
        headers = {"X-Ganline-Model": str(about["model"]), "X-Ganline-Version": str(about["version"])}
        return Response(body, media_type=TYPES[kind], headers=headers)


def _add_release(app: FastAPI, settings: Settings) -> None:
    @app.get("/v1/model", responses=refusals(401), summary="What release answers now", tags=["release"])
    async def model(request: Request) -> Model:
        current: Current = request.app.state.ganline.current
        generator, found = current.generator, current.found
        return Model(
            model=found.model, version=found.version, alias=found.alias, reference=settings.reference,
            run_id=found.run_id, dataset=found.dataset, config=found.config, metrics=found.metrics,
            classes=list(generator.class_names),
            resolution=generator.spec.resolution, channels=generator.spec.channels,
            registry="away" if current.registry_away else "answers", trouble=current.trouble,
            limits={"n": MOST_IMAGES, "truncation": MOST_TRUNCATION, "body": MOST_BODY, "waiting": MOST_WAITING},
        )  # fmt: skip

    @app.get("/v1/versions", responses=refusals(401), summary="Versions and decisions", tags=["release"])
    async def versions(request: Request) -> Versions:
        ganline: _App = request.app.state.ganline
        known, answers = await ganline.versions.now()
        found = ganline.current.found
        registry = "answers" if answers else "away"
        return Versions(model=found.model, serving=found.version, registry=registry, versions=known)

    @app.get(
        "/v1/versions/{version}/report", response_class=Response, responses=refusals(401, 404, 422, 503),
        summary="The evaluation that a version was judged on", tags=["release"],
    )  # fmt: skip
    async def report(request: Request, version: int = Path(ge=1, le=10**9)) -> Response:
        ganline: _App = request.app.state.ganline
        try:
            data, kind = await ganline.versions.report(version)
        except Unavailable as away:
            raise HTTPException(503, str(away), {"Retry-After": "10"}) from None
        except (UserError, ArtifactError) as none:
            raise HTTPException(404, str(none)) from None
        as_page = kind == "text/html"
        name = f"{ganline.current.found.model}-version-{version}.{'html' if as_page else 'json'}"
        headers = {**LOCKED_UP, "Content-Disposition": f'inline; filename="{name}"'}
        return Response(locked_up(data) if as_page else data, media_type=kind, headers=headers)

    @app.get("/healthz", summary="Whether it answers", tags=["operation"], response_model_exclude_unset=True)
    async def healthz(request: Request) -> Health:
        if not request.scope[KNOWN]:
            return Health(status="ok")
        current: Current = request.app.state.ganline.current
        found, registry = current.found, "away" if current.registry_away else "answers"
        return Health(status="ok", model=found.model, version=found.version, registry=registry, trouble=current.trouble)


def _add_pages(app: FastAPI, figures: Figures) -> None:
    front = _html(*page())

    @app.get("/metrics", response_class=Response, responses=refusals(401), tags=["operation"], summary="Prometheus")
    async def metrics() -> Response:
        return Response(figures.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/", include_in_schema=False)
    async def root() -> Response:
        return front

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return _html(*docs_page(app.openapi()))


def _html(text: str, policy: str) -> Response:
    headers = {"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
    return Response(text, media_type="text/html; charset=utf-8", headers=headers)


def _add_errors(app: FastAPI) -> None:
    """All in one form, and in ASCII: what a visitor wrote, and is told of, may be no text at all."""

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        if first["loc"] == ("body",):
            return _refusal(422, "the body is no JSON object, or its Content-Type is not application/json")
        where = ".".join(str(part)[:100] for part in first["loc"] if part != "body")
        return _refusal(422, f"{where}: {first['msg']}" if where else str(first["msg"]))

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        return _refusal(error.status_code, str(error.detail), error.headers)

    @app.exception_handler(NotAcceptable)
    async def not_acceptable(request: Request, error: NotAcceptable) -> Response:
        return _refusal(406, str(error))

    @app.exception_handler(Busy)
    async def busy(request: Request, error: Busy) -> Response:
        return _refusal(503, str(error), {"Retry-After": str(error.seconds)})


def _refusal(status: int, why: str, headers: Any = None) -> Response:
    body = json.dumps({"detail": " ".join(why.split())})
    return Response(body, status, headers=headers, media_type="application/json")


def _labels(generator: Generator, wanted: ImagesRequest) -> list[int] | None:
    """The class number of each image; raises HTTPException for a class that there is not."""
    names, label = generator.class_names, wanted.label
    if label is None:
        return [index % len(names) for index in range(wanted.n)] if names else None
    if isinstance(label, str) and label in names:
        return [names.index(label)] * wanted.n
    if isinstance(label, int) and label < len(names):
        return [label] * wanted.n
    known = f"its classes are {', '.join(names[:20])}{' ...' if len(names) > 20 else ''}" if names else "it has none"
    raise HTTPException(422, f"label: there is no class {label!r}; {known}")
