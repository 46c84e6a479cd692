"""What is kept of each decision, and how it is shown."""

import json
import os
import socket
import time
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from judging import BETTER, WORSE, aliases, judge, record, tags

from flows.history import _whole
from pipeline.errors import UserError
from pipeline.registry import audit
from pipeline.registry.history import release_of, releases_of
from pipeline.registry.releases import (
    champion_version,
    promote,
    promote_version,
    rollback,
    settle,
)


def test_every_decision_is_in_the_record(world):
    first, second = world.release("record", 0), world.release("record", 1)
    settle(world.client, "record", first, judge(first, WORSE), by="flow run gray-fox")
    refused = settle(world.client, "record", second, judge(second, WORSE, b'{"report": 2}'))
    kept = record(world, "record", second)
    promote_version(world.client, "record", second)
    rollback(world.client, "record")
    with pytest.raises(UserError):
        promote_version(world.client, "record", 9)
    settle(world.client, "record", second, lambda _: pytest.fail("judged"))

    (*_, opened) = record(world, "record", first)
    assert (opened["by"], opened["against"], opened["promoted"]) == ("flow run gray-fox", None, True)
    again, back, by_hand, gate = record(world, "record", second)
    assert [gate] == kept
    assert (gate["rule"], gate["against"], gate["promoted"], gate["reason"]) == ("interval", 1, False, refused.reason)
    assert gate["figures"]["difference"] == 3.1 and gate["figures"]["memorised"] == 0.01
    checks = {check["rule"]: check["passed"] for check in gate["checks"]}
    assert checks.items() >= {"smoke": True, "memorisation": True, "coverage": None, "interval": False}.items()
    assert gate["evaluation"]["ganline.evaluation.sha256"] == sha256(b'{"report": 2}').hexdigest()
    assert gate["by"].endswith(f"@{socket.gethostname()}, process {os.getpid()}")
    assert abs(time.time() - datetime.fromisoformat(gate["at"]).timestamp()) < 60
    assert (by_hand["rule"], by_hand["against"], by_hand["promoted"]) == ("by_hand", first, True)
    assert (back["rule"], back["reason"], back["promoted"]) == ("rollback", "rolled back to version 1", False)
    assert (again["rule"], again["promoted"]) == ("rolled_back", False)
    newest = record(world, "record", first)[0]
    assert (newest["rule"], newest["against"], newest["promoted"]) == ("rollback", second, True)
    assert [one["id"] for one in record(world, "record", second)] == sorted(
        (one["id"] for one in record(world, "record", second)), reverse=True
    )


def test_a_record_that_was_cut_off_is_completed(world, monkeypatch):
    version, other = world.release("completed", 0), world.release("completed", 1)

    def die(*_):
        raise KeyboardInterrupt

    for act in (
        lambda: settle(world.client, "completed", version, judge(version, BETTER)),
        lambda: promote_version(world.client, "completed", other),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(audit, "write", die)
            with pytest.raises(KeyboardInterrupt):
                act()
        number = champion_version(world.client, "completed")
        assert record(world, "completed", number) == []
        act(), act()
        (entry,) = record(world, "completed", number)
        assert (
            entry["promoted"] and entry["id"] == json.loads(tags(world, "completed", number)["ganline.decision"])["id"]
        )


def test_a_rollback_needs_no_artifact_store(world, monkeypatch, heard):
    first, second = world.release("storeless", 0), world.release("storeless", 1)
    promote(world.client, "storeless", first)
    promote(world.client, "storeless", second)

    def away(*_):
        raise OSError("no route to s3://key:secret@store")

    with monkeypatch.context() as patch:
        patch.setattr(audit, "write", away)
        assert rollback(world.client, "storeless").version == first
    assert aliases(world, "storeless") == {"champion": first, "previous": second}
    assert len(heard.notes) == 2 and all("no record of it" in note and "secret" not in note for note in heard.notes)


def test_a_champion_stays_though_the_artifact_store_fails_at_that_moment(world, monkeypatch, heard):
    version = world.release("promoted", 0)

    def away(*_):
        raise OSError("no route to the store")

    with monkeypatch.context() as patch:
        patch.setattr(audit, "write", away)
        assert settle(world.client, "promoted", version, judge(version, BETTER)).promoted
    assert aliases(world, "promoted") == {"champion": version} and "no record of it" in heard.notes[0]
    settle(world.client, "promoted", version, lambda _: pytest.fail("judged again"))
    assert len(record(world, "promoted", version)) == 1  # completed from the tag


def test_a_record_is_not_believed_where_somebody_else_wrote(world, tmp_path, heard):
    version = world.release("written", 0)
    settle(world.client, "written", version, judge(version, BETTER))
    (entry,) = record(world, "written", version)
    source = Path(unquote(urlsplit(world.client.get_model_version("written", str(version)).source).path))
    folder = source / "decisions"
    for number, text in enumerate(("{}", '{"id": "x", "promoted": true}', "[", '{"figures": []}')):
        (folder / f"20990101T000000.000000Z-0000000{number}.json").write_text(text)
    found = release_of(world.client, "written", version)[1]
    assert [one["reason"].endswith("is damaged") for one in found] == [True] * 4 + [False]
    assert _whole(*release_of(world.client, "written", version))  # can be shown
    evil = json.dumps({**entry, "id": f"../../{tmp_path.name}/evil"})
    world.client.set_model_version_tag("written", str(version), "ganline.decision", evil)
    settle(world.client, "written", version, lambda _: pytest.fail("judged again"))
    assert not list(tmp_path.parent.rglob("evil*")) and "id of a decision" in heard.notes[-1]


def test_releases_lists_the_newest_first_with_its_decision(world):
    first, second, third = (world.release("listed", seed) for seed in range(3))
    settle(world.client, "listed", first, judge(first, BETTER))
    settle(world.client, "listed", second, judge(second, BETTER))
    rollback(world.client, "listed")
    listed = releases_of(world.client, "listed")
    assert [one.version for one in listed] == [third, second, first]
    assert [one.aliases for one in listed] == [(), ("previous",), ("champion",)]
    assert [one.promoted for one in listed] == [None, True, True]
    assert [one.rolled_back for one in listed] == [None, "to version 1", None]
    assert listed[1].against == first and listed[1].figures["difference"] == -3.1 and listed[1].dataset == "d" * 64
    assert listed[1].reason.startswith("3.1 better than version 1")
    one, decisions = release_of(world.client, "listed", second)
    assert one == listed[1] and [entry["rule"] for entry in decisions] == ["rollback", "interval"]
    with pytest.raises(UserError, match="no version 9"):
        release_of(world.client, "listed", 9)
    with pytest.raises(UserError, match="no model nowhere"):
        releases_of(world.client, "nowhere")
