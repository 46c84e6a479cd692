"""What the service does not take, and says so in one line."""

import asyncio
import hashlib
from dataclasses import replace

import pytest
import schemathesis
from hypothesis import HealthCheck, given, seed
from hypothesis import settings as hypothesis_settings

from pipeline.serving import batching
from pipeline.serving.messages import MOST_BODY, MOST_WAITING

JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ('{"n": 0}', 422, "n: "),
        ('{"n": 257}', 422, "n: "),
        ('{"n": true}', 422, "n: "),
        ('{"n": "1"}', 422, "n: "),
        ('{"seed": -1}', 422, "seed: "),
        ('{"seed": 9223372036854775808}', 422, "seed: "),
        ('{"seed": 1.5}', 422, "seed: "),
        ('{"truncation": -0.1}', 422, "truncation: "),
        ('{"truncation": 2.1}', 422, "truncation: "),
        ('{"truncation": NaN}', 422, "truncation: "),
        ('{"truncation": Infinity}', 422, "truncation: "),
        ('{"label": "maybe"}', 422, "there is no class 'maybe'; its classes are off, on"),
        ('{"label": 2}', 422, "there is no class 2"),
        ('{"label": -1}', 422, "label"),
        ('{"label": "\\ud800"}', 422, "label"),
        ('{"\\ud800": 1}', 422, ""),
        ('{"m": 1}', 422, "m: Extra inputs"),
        ('{"n": 2, "format": "png"}', 422, "ask for zip or json"),
        ('{"format": "gif"}', 422, "format"),
        ("[1]", 422, "no JSON object"),
        ("{", 422, ""),
        ("[" * 9000, 400, ""),
        (b'{"label": "\xff"}', 400, ""),
        ('{"n": 1}' + " " * MOST_BODY, 413, "16,384 bytes"),
    ],
)
def test_an_input_that_is_not_possible_is_named(ask, body, status, said):
    async def act(client, _):
        return await client.post("/v1/images", content=body, headers=JSON)

    answer = ask(act)
    assert answer.status_code == status
    assert said in answer.json()["detail"] and "\n" not in answer.json()["detail"]


def test_a_queue_that_is_full_refuses_at_once_and_says_when_to_come_again(ask):
    async def act(client, _):
        body = {"n": 256, "format": "json"}
        return await asyncio.gather(*(client.post("/v1/images", json=body) for _ in range(24)))

    answers = ask(act)
    taken = [answer for answer in answers if answer.status_code == 200]
    refused = [answer for answer in answers if answer.status_code == 503]
    assert len(taken) >= MOST_WAITING // 256 and refused and len(taken) + len(refused) == 24
    assert all(int(answer.headers["Retry-After"]) >= 1 for answer in refused)


def test_half_a_minute_of_work_that_waits_refuses_the_next(ask, monkeypatch):
    monkeypatch.setattr(batching, "MOST_SECONDS", 0.01)  # this generator would be quick about all that may wait

    async def act(client, _):
        body = {"n": 256, "format": "json"}
        assert (await client.post("/v1/images", json=body)).status_code == 200  # it knows by now how long one takes
        together = await asyncio.gather(*(client.post("/v1/images", json=body) for _ in range(5)))
        return together, await client.post("/v1/images", json=body)

    together, after = ask(act)
    refused = [answer for answer in together if answer.status_code == 503]
    assert refused and MOST_WAITING > 5 * 256
    assert all(int(answer.headers["Retry-After"]) >= 1 for answer in refused)
    assert together[0].status_code == after.status_code == 200


def test_with_a_token_only_who_has_it_enters(ask, settings):
    guarded = replace(settings, token_sha256=hashlib.sha256(b"s3cret").hexdigest())
    others = [None, "", "s3cret", "Bearer", "Bearer ", "Bearer s3cre", "Bearer s3cretx", "Basic s3cret", "Bearer \xe4"]

    async def act(client, _):
        for path in ("/v1/model", "/v1/versions", "/metrics", "/v1/versions/3/report", "/nowhere"):
            for other in others:
                headers = {} if other is None else {"Authorization": other.encode("latin-1")}
                answer = await client.get(path, headers=headers)
                assert answer.status_code == 401 and answer.headers["WWW-Authenticate"] == "Bearer", (path, other)
        assert (await client.post("/v1/images", json={})).status_code == 401
        right = {"Authorization": "Bearer s3cret"}
        assert (await client.post("/v1/images", json={}, headers=right)).status_code == 200
        assert (await client.get("/v1/model", headers=right)).status_code == 200
        for path in ("/healthz", "/", "/docs", "/openapi.json"):
            assert (await client.get(path)).status_code == 200
        for other in ({}, {"Authorization": "Bearer s3cretx"}):
            assert (await client.get("/healthz", headers=other)).json() == {"status": "ok"}
        health = {"status": "ok", "model": "dots", "version": 1, "registry": "answers", "trouble": None}
        assert (await client.get("/healthz", headers=right)).json() == health

    ask(act, guarded)


def test_malformed_requests_break_nothing(live, settings):
    """Each operation of the service's own OpenAPI, with what it allows and with what it does not."""
    with live(settings) as address:
        schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
        asked = 0
        for result in schema.get_all_operations():
            operation = result.ok()
            for mode in schemathesis.GenerationMode:
                strategy = operation.as_strategy(generation_mode=mode)

                @seed(7)
                @hypothesis_settings(
                    max_examples=40, deadline=None, database=None, suppress_health_check=list(HealthCheck)
                )
                @given(case=strategy)
                def act(case):
                    nonlocal asked
                    answer = case.call()
                    assert answer.status_code < 500 or answer.status_code == 503, (case, answer.text)
                    told = case.operation.definition.raw["responses"]
                    assert str(answer.status_code) in told, (case, answer.status_code)
                    asked += 1

                try:
                    act()
                except Exception as error:
                    if "Unsatisfiable" not in type(error).__name__:  # nothing that it takes can be wrong
                        raise
    assert asked > 100
