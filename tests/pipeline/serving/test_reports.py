"""Evaluation reports whose registry or store does not answer as it should."""

import asyncio
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from pipeline.registry.reported import report
from pipeline.serving import versions

PATH = "/v1/versions/3/report"


@contextmanager
def broken(database: Path) -> Iterator[None]:
    """A registry that still lists its tables, and fails at the first question about a version."""
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("PRAGMA legacy_alter_table = ON")  # or what refers to the table would follow it
        connection.execute("ALTER TABLE model_versions RENAME TO kept")
        try:
            yield
        finally:
            connection.execute("ALTER TABLE kept RENAME TO model_versions")


def test_a_registry_that_is_away_is_no_report_that_is_not_there(ask, releases):
    async def act(client, _):
        with broken(releases.storage.local_path("mlflow.db")):
            return await client.get(PATH), await client.post("/v1/images", json={})

    report, images = ask(act)
    assert report.status_code == 503 and int(report.headers["Retry-After"]) > 0
    assert "cannot use the MLflow store" in report.json()["detail"]
    assert images.status_code == 200


def test_a_store_that_is_long_about_a_report_holds_up_neither_versions_nor_images(ask, monkeypatch):
    begun, ended = threading.Event(), threading.Event()

    def late(*asked):
        begun.set()
        assert ended.wait(30)
        return report(*asked)

    monkeypatch.setattr(versions, "report", late)

    async def act(client, _):
        asked = asyncio.create_task(client.get(PATH))
        try:
            assert await asyncio.to_thread(begun.wait, 10)
            known = await asyncio.wait_for(client.get("/v1/versions"), 10)
            images = await asyncio.wait_for(client.post("/v1/images", json={"n": 2}), 10)
            assert not asked.done()
        finally:
            ended.set()
        return known, images, await asked

    assert [answer.status_code for answer in ask(act)] == [200, 200, 200]
