"""What the service gives is what the version that it names gives offline, however it is asked."""

import asyncio
import base64
import io
import json
import zipfile

import pytest
from pictures_of import pixels, same, version_of
from PIL import Image

from flows.generate import generate_images
from pipeline.registry.lookup import load
from pipeline.serving.answers import NotAcceptable, kind_of
from pipeline.serving.batching import Batcher
from pipeline.serving.figures import Figures
from pipeline.storage import Storage

ASKED = [
    ({}, 0, None, 1.0, 1),
    ({"seed": 2**63 - 1, "label": "on"}, 2**63 - 1, 1, 1.0, 1),
    ({"n": 3, "seed": 5, "label": 0, "format": "json"}, 5, 0, 1.0, 3),
    ({"n": 100, "seed": 6, "truncation": 0.5, "format": "json"}, 6, None, 0.5, 100),
    ({"n": 7, "seed": 7, "truncation": 1, "format": "zip"}, 7, None, 1.0, 7),
]


def pngs_of(answer) -> list[bytes]:
    kind = answer.headers["Content-Type"]
    if kind == "image/png":
        return [answer.content]
    if kind == "application/json":
        return [base64.b64decode(image["png"]) for image in answer.json()["images"]]
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        return [archive.read(name) for name in sorted(archive.namelist()) if name.endswith(".png")]


def text_of(png: bytes) -> dict[str, str]:
    return Image.open(io.BytesIO(png)).text


def figures(metrics: str) -> dict[str, float]:
    """By series, from Prometheus' text."""
    lines = [line.rsplit(" ", 1) for line in metrics.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in lines}


def test_images_are_the_offline_sample_of_the_version_that_is_named(ask, releases):
    async def act(client, _):  # all at once, so that rows of one are in batches with rows of others
        return await asyncio.gather(*(client.post("/v1/images", json=body) for body, *_ in ASKED * 4))

    generator = load("dots@1", releases.storage)
    for answer, (_, seed, label, truncation, n) in zip(ask(act), ASKED * 4, strict=True):
        assert answer.status_code == 200 and version_of(answer) == 1
        shown = pngs_of(answer)
        assert len(shown) == n
        for png, sampled in zip(shown, generator.sample(n, seed, label, truncation), strict=True):
            assert same(pixels(png), sampled)


def test_pictures_say_what_they_are_as_those_made_offline_do(ask, releases, tmp_path):
    async def act(client, _):
        body = {"n": 3, "seed": 5, "truncation": 0.5, "format": "json"}
        several = [await client.post("/v1/images", json=body | more) for more in ({}, {"label": "on"})]
        return [*several, await client.post("/v1/images", json={"seed": 5, "truncation": 0.5})]

    served = ask(act)
    for answer, label in zip(served, (None, "on", None), strict=True):
        pngs = pngs_of(answer)
        generate_images(releases.storage, "dots@1", len(pngs), 5, str(tmp_path), label, 0.5)
        offline = [(tmp_path / f"{index:05d}.png").read_bytes() for index in range(len(pngs))]
        assert [text_of(png) for png in pngs] == [text_of(png) for png in offline]
        assert text_of(pngs[0])["ganline.version"] == "1"


def test_a_grid_goes_to_an_object_store_whose_endpoint_its_uri_says(releases, s3_root):
    folder = Storage(s3_root)
    generate_images(releases.storage, "dots@1", 4, 5, folder.child_uri("some/grid.png"), None, 1.0)
    assert text_of(folder.read("some/grid.png"))["ganline.images"] == "4"


def test_json_and_zip_tell_what_the_images_can_be_made_from_again(ask):
    async def act(client, _):
        body = {"n": 3, "seed": 9}
        return [await client.post("/v1/images", json=body | {"format": kind}) for kind in ("json", "zip")]

    as_json, as_zip = ask(act)
    about = {"model": "dots", "version": 1, "seed": 9, "truncation": 1.0}
    assert {key: value for key, value in as_json.json().items() if key != "images"} == about
    assert [(image["index"], image["label"]) for image in as_json.json()["images"]] == [
        (0, "off"),
        (1, "on"),
        (2, "off"),
    ]
    with zipfile.ZipFile(io.BytesIO(as_zip.content)) as archive:
        assert json.loads(archive.read("about.json")) == about
        assert archive.read("labels.csv").decode().splitlines()[:2] == ["file,label", "00000.png,off"]


@pytest.mark.parametrize(
    ("accept", "n", "kind"),
    [
        ("", 1, "png"),
        ("*/*", 1, "png"),
        ("*/*", 2, "zip"),
        ("application/json", 1, "json"),
        ("image/*", 1, "png"),
        ("text/html, application/json;q=0.5, image/png;q=0.4", 1, "json"),
        ("image/png, application/json;q=0.1", 2, "json"),
        ("application/zip;q=nonsense, application/json;q=0.1", 2, "json"),
        ("image/png", 2, None),
        ("text/html", 1, None),
        ("*/*;q=0", 1, None),
    ],
)
def test_the_accept_header_chooses_among_what_can_hold_so_many(accept, n, kind):
    if kind is None:
        with pytest.raises(NotAcceptable):
            kind_of(accept, n)
    else:
        assert kind_of(accept, n) == kind


def test_requests_at_the_same_time_share_batches(ask):
    async def act(client, _):
        await asyncio.gather(*(client.post("/v1/images", json={"seed": seed}) for seed in range(64)))
        return (await client.get("/metrics")).text

    told = figures(ask(act))
    assert told['ganline_batch_rows_sum{replica="0"}'] == 64
    assert told['ganline_batch_rows_count{replica="0"}'] <= 16
    assert told['ganline_images_total{replica="0"}'] == 64
    assert told['ganline_version{replica="0"}'] == 1
    assert told['ganline_requests_total{path="/v1/images",replica="0",status="200"}'] == 64


def test_versions_that_are_asked_for_at_the_same_time_share_no_batch(releases):
    generators = [load(f"dots@{version}", releases.storage) for version in (1, 2)]
    orders = [(generator, seed) for seed in range(8) for generator in generators]

    async def act():
        batcher = Batcher(Figures("0"))
        made = await asyncio.gather(*(batcher.pngs(one, 3, seed, [0, 1, 0], 1.0) for one, seed in orders))
        await batcher.close()
        return made

    for pngs, (generator, seed) in zip(asyncio.run(act()), orders, strict=True):
        for png, sampled in zip(pngs, generator.sample(3, seed), strict=True):
            assert same(pixels(png), sampled)


def test_what_nobody_waits_for_any_more_is_not_made(ask):
    async def act(client, app):
        gone = [asyncio.create_task(client.post("/v1/images", json={"n": 256, "format": "json"})) for _ in range(6)]
        await asyncio.sleep(0.01)
        for task in gone:
            task.cancel()
        await asyncio.gather(*gone, return_exceptions=True)
        assert (await client.post("/v1/images", json={})).status_code == 200
        return (await client.get("/metrics")).text

    told = figures(ask(act))
    assert told['ganline_waiting_images{replica="0"}'] == 0
    assert told['ganline_batch_rows_sum{replica="0"}'] < 1000
    assert told['ganline_requests_total{path="/v1/images",replica="0",status="499"}'] == 6
    assert 'ganline_requests_total{path="/v1/images",replica="0",status="500"}' not in told


def test_who_goes_away_amid_the_request_is_answered_nothing_and_counted_as_gone(ask):
    async def act(client, app):
        sent = []

        async def gone():
            return {"type": "http.disconnect"}

        async def send(message):
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/v1/images", "headers": [], "query_string": b""}
        await app(scope, gone, send)
        return sent, (await client.get("/metrics")).text

    sent, metrics = ask(act)
    assert not sent
    assert figures(metrics)['ganline_requests_total{path="other",replica="0",status="499"}'] == 1
