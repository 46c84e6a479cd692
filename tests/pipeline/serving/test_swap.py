"""The alias moves under a service that is at work."""

import asyncio
import random
import time
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from hurry import within
from pictures_of import pixels, same, version_of

from pipeline.registry.lookup import load, lookup
from pipeline.serving import current
from pipeline.storage import cache_root


@pytest.fixture(autouse=True)
def often(monkeypatch) -> None:
    monkeypatch.setattr(current, "LOOK_SECONDS", 0.1)


async def until(client, so) -> dict:
    """What `/healthz` says once it says so."""
    deadline = time.monotonic() + 10
    while not so(health := (await client.get("/healthz")).json()):
        assert time.monotonic() < deadline, health
        await asyncio.sleep(0.02)
    return health


def test_no_request_fails_when_the_alias_moves_and_each_answer_is_of_the_version_that_it_names(ask, releases):
    async def act(client, app):
        answers = []

        async def visitor(number: int) -> None:
            seed = number * 10_000
            while not moved.is_set() or (version_of(answers[-1][1]) == 1 and time.monotonic() < deadline):
                seed += 1
                answers.append((seed, await client.post("/v1/images", json={"seed": seed, "label": "on"})))

        moved, deadline = asyncio.Event(), time.monotonic() + 15
        visitors = [asyncio.create_task(visitor(number)) for number in range(8)]
        await asyncio.sleep(0.3)
        await asyncio.to_thread(releases.promote, 2)
        moved.set()
        begun = time.monotonic()
        await asyncio.gather(*visitors)
        assert time.monotonic() - begun < within(5)
        answers.append((1, await client.post("/v1/images", json={"seed": 1, "label": "on"})))
        return answers

    answers = ask(act)
    assert {answer.status_code for _, answer in answers} == {200}
    assert {version_of(answer) for _, answer in answers} == {1, 2}
    assert version_of(answers[-1][1]) == 2
    generators = {version: load(f"dots@{version}", releases.storage) for version in (1, 2)}
    assert not same(generators[1].sample(1, 1, 1)[0], generators[2].sample(1, 1, 1)[0])
    moved = next(place for place, (_, answer) in enumerate(answers) if version_of(answer) == 2)
    about = answers[max(0, moved - 16) : moved + 16]  # what was under way when it was changed
    for seed, answer in random.Random(0).sample(answers, 20) + about + answers[-1:]:
        assert same(pixels(answer.content), generators[version_of(answer)].sample(1, seed, 1)[0])


def test_a_version_that_is_not_what_was_released_never_answers(ask, releases):
    version = releases.release(4)
    found = lookup(f"dots@{version}", releases.storage)
    folder = Path(unquote(urlsplit(found.uri).path), found.folder)
    (weights,) = folder.glob("generator.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00")

    async def act(client, app):
        await asyncio.to_thread(releases.promote, version)
        health = await until(client, lambda health: health["trouble"])
        answer = await client.post("/v1/images", json={})
        await asyncio.to_thread(releases.promote, 2)
        await until(client, lambda health: health["version"] == 2)
        return health, answer, (await client.get("/v1/model")).json()

    health, answer, after = ask(act)
    assert health["version"] == version_of(answer) == 1
    assert f"can not serve version {version}" in health["trouble"]
    assert after["trouble"] is None
    assert not list(cache_root(releases.storage).glob(f"models/dots/{version}/generator.safetensors"))


def test_what_could_not_be_loaded_is_tried_again_later_and_then_answers(ask, releases, monkeypatch):
    monkeypatch.setattr(current, "_AGAIN_SECONDS", 1.0)
    version = releases.release(5)
    found = lookup(f"dots@{version}", releases.storage)
    weights = Path(unquote(urlsplit(found.uri).path), found.folder, "generator.safetensors")
    kept = weights.rename(weights.with_suffix(".kept"))

    async def act(client, app):
        await asyncio.to_thread(releases.promote, version)
        await until(client, lambda health: health["trouble"])
        refused = time.monotonic()
        kept.rename(weights)
        return await until(client, lambda health: health["version"] == version), time.monotonic() - refused

    health, seconds = ask(act)
    assert health["trouble"] is None
    assert seconds > 0.5  # not at each look, of which there are ten a second


def test_it_begins_without_its_registry_with_what_it_served_before(ask, releases):
    async def nothing(client, app):
        pass

    async def act(client, _):
        made = await client.post("/v1/images", json={})
        return made, (await client.get("/healthz")).json(), (await client.get("/v1/versions")).json()

    ask(nothing)
    database = releases.storage.local_path("mlflow.db")
    kept = database.rename(database.with_suffix(".kept"))
    database.write_bytes(b"no database" * 100)
    try:
        made, health, known = ask(act)
    finally:
        kept.rename(database)
    assert made.status_code == 200 and version_of(made) == 1
    assert health["registry"] == known["registry"] == "away" and known["versions"] == []


def test_versions_are_told_with_figures_and_decisions(ask):
    async def act(client, _):
        known = (await client.get("/v1/versions")).json()
        return known, [await client.get(f"/v1/versions/{version}/report") for version in (3, 4, 1)]

    known, (report, page, none) = ask(act)
    assert (known["model"], known["serving"], known["registry"]) == ("dots", 1, "answers")
    by_number = {each["version"]: each for each in known["versions"]}
    first, third = by_number[1], by_number[3]
    assert first["promoted"] is True and "champion" in first["aliases"] and first["report"] is None
    assert third["promoted"] is False and "worse than version 1" in third["reason"] and third["rule"] == "interval"
    assert third["figures"] == {"distance": 21.5, "seeds": 2} and third["report"] == "v1/versions/3/report"
    assert report.json() == {"figures": []}
    assert page.headers["Content-Type"].startswith("text/html") and "measured" in page.text
    assert page.headers["Content-Security-Policy"].startswith("sandbox; default-src 'none'")
    assert page.headers["Content-Disposition"] == 'inline; filename="dots-version-4.html"'
    assert report.headers["Content-Disposition"] == 'inline; filename="dots-version-3.json"'
    assert none.status_code == 404
