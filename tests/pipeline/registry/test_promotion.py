"""Who becomes champion, and what is left where somebody dies on the way."""

import json
import math
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
from hurry import within
from judging import BETTER, WORSE, aliases, judge, locks, record, tags
from mlflow.tracking import MlflowClient
from mlflow_server import MlflowServer

from pipeline.errors import UserError
from pipeline.registry.gate import Decision, decide
from pipeline.registry.lookup import lookup
from pipeline.registry.releases import (
    champion_version,
    log_evaluation,
    name_page,
    promote,
    promote_version,
    record_decision,
    rollback,
    settle,
)
from pipeline.registry.reported import report
from pipeline.registry.runs import open_run
from pipeline.registry.server import client as connect


class Dying:
    """A client that dies before its `calls`-th write."""

    def __init__(self, client, calls: int):
        self._client, self._left = client, calls

    def __getattr__(self, name):
        value = getattr(self._client, name)
        if not name.startswith(("set_", "delete_model_version", "delete_registered_model_tag")):
            return value

        def write(*arguments):
            if not self._left:
                raise KeyboardInterrupt
            self._left -= 1
            return value(*arguments)

        return write


def test_a_worse_version_stays_without_the_alias_and_says_why(world):
    first, second, third = (world.release("night", seed) for seed in range(3))
    assert settle(world.client, "night", first, judge(first, WORSE)).reason == "there was no champion"
    refused = settle(world.client, "night", second, judge(second, WORSE, b'{"report": 1}'))
    assert (refused.promoted, refused.alias) == (False, None)
    assert refused.reason == f"3.1 worse than version {first} (95 % interval 2.2 to 4)"
    assert aliases(world, "night") == {"champion": first}
    written = tags(world, "night", second)
    assert (written["ganline.promoted"], written["ganline.reason"]) == ("false", refused.reason)
    decision = json.loads(written["ganline.decision"])
    assert (decision["rule"], decision["against"], decision["figures"]["difference"]) == ("interval", first, 3.1)
    report = Path(world.client.download_artifacts(world.run_id, written["ganline.evaluation"]))
    assert report.read_bytes() == b'{"report": 1}'
    assert written["ganline.evaluation.sha256"] == sha256(b'{"report": 1}').hexdigest()

    better = settle(world.client, "night", third, judge(third, BETTER))
    assert (better.promoted, better.alias) == (True, "champion")
    assert aliases(world, "night") == {"champion": third, "previous": first}
    assert settle(world.client, "night", third, lambda _: pytest.fail("judged again")) == better
    assert locks(world) == []


def test_a_second_report_does_not_overwrite_the_first(world):
    version = world.release("reports", 0)
    decision = Decision(False, "no", "interval", {}, None)
    paths = set()
    for document in (b"{}", b"[]", b"{}"):
        evidence = log_evaluation(world.client, world.client.get_model_version("reports", str(version)), document)
        record_decision(world.client, "reports", version, decision, evidence)
        paths.add(tags(world, "reports", version)["ganline.evaluation"])
    assert len(paths) == 2
    assert all(path.startswith("release/") and path.endswith("/evaluation.json") for path in paths)


def test_the_page_on_another_evaluation_is_not_shown(world, tmp_path):
    version = world.release("paged", 0)
    decision, files = Decision(False, "no", "interval", {}, None), {"index.html": b"<p>first"}

    def judged_on(document: bytes) -> tuple[bytes, str]:
        evidence = log_evaluation(world.client, world.client.get_model_version("paged", str(version)), document)
        record_decision(world.client, "paged", version, decision, evidence)
        return report("paged", version, world.storage)

    judged_on(b'{"seen": 1}')
    name_page(world.client, "paged", version, "a" * 64, files)
    assert judged_on(b'{"seen": 1}') == (b"<p>first", "text/html")
    assert judged_on(b'{"seen": 2}') == (b'{"seen": 2}', "application/json")  # nobody could make a page this time


def test_any_decision_fits_its_tags(world):
    version = world.release("long", 0)
    figures = {"wrong": math.nan, "endless": math.inf}
    record_decision(world.client, "long", version, Decision(False, "no", "not_finite", figures, 3))
    decision = json.loads(tags(world, "long", version)["ganline.decision"])
    assert decision["figures"] == {"wrong": "nan", "endless": "inf"}
    figures = {f"figure {i}": i / 7 for i in range(1000)}
    record_decision(world.client, "long", version, Decision(False, "no " * 9000, "interval", figures, 3))
    written = tags(world, "long", version)
    assert len(written["ganline.decision"]) <= 5000
    assert json.loads(written["ganline.decision"])["rule"] == "interval"
    assert len(written["ganline.reason"]) <= 500


def test_a_champion_that_moves_while_one_judges_has_it_judged_again(world):
    first, second, third = (world.release("moving", seed) for seed in range(3))
    promote(world.client, "moving", first)
    seen = []

    def slowly(champion):
        seen.append(champion)
        if len(seen) == 1:
            promote(world.client, "moving", third)  # another is quicker
        return decide(champion=champion, candidate_version=second, **(BETTER if champion == first else WORSE)), None

    assert not settle(world.client, "moving", second, slowly).promoted
    assert seen == [first, third]
    assert aliases(world, "moving") == {"champion": third, "previous": first}

    def always(champion):
        promote(world.client, "moving", first if champion == third else third)
        return decide(champion=champion, candidate_version=second, **BETTER), None

    with pytest.raises(UserError, match="moved 3 times"):
        settle(world.client, "moving", second, always)
    assert locks(world) == []


def test_promoted_by_hand_says_so_and_what_the_gate_had_said(world):
    first, second = world.release("hand", 0), world.release("hand", 1)
    promote(world.client, "hand", first)
    settle(world.client, "hand", second, judge(second, WORSE))
    began = time.monotonic()
    release = promote_version(world.client, "hand", second)
    assert time.monotonic() - began < within(10)
    assert release.reason.startswith("promoted by hand over version 1; before that: 3.1 worse")
    decision = json.loads(tags(world, "hand", second)["ganline.decision"])
    assert (decision["rule"], decision["figures"]["difference"]) == ("by_hand", 3.1)
    assert aliases(world, "hand") == {"champion": second, "previous": first}
    assert promote_version(world.client, "hand", second) == release
    with pytest.raises(UserError, match="no version 9"):
        promote_version(world.client, "hand", 9)


def test_rollback_and_its_opposite(world):
    first, second = world.release("back", 0), world.release("back", 1)
    promote(world.client, "back", first)
    with pytest.raises(UserError, match=r"no previous champion .* ganline promote back --version V"):
        rollback(world.client, "back")
    promote(world.client, "back", second)
    for now, other in ((first, second), (second, first)):
        began = time.monotonic()
        release = rollback(world.client, "back")
        assert time.monotonic() - began < within(10)
        assert (release.version, release.reason) == (now, f"rolled back from version {other}")
        assert aliases(world, "back") == {"champion": now, "previous": other}
        assert lookup("back@champion", world.storage).version == now
        assert tags(world, "back", other)["ganline.rolled_back"] == f"to version {now}"
        assert "ganline.rolled_back" not in tags(world, "back", now)
    with pytest.raises(UserError, match="no model nowhere"):
        rollback(world.client, "nowhere")
    assert locks(world) == []


def test_a_version_that_was_rolled_back_stays_so_until_a_person_promotes_it(world):
    first, second, third = (world.release("stays", seed) for seed in range(3))
    promote(world.client, "stays", first)
    promote(world.client, "stays", second)
    rollback(world.client, "stays")
    refused = settle(world.client, "stays", second, lambda _: pytest.fail("judged"))
    assert not refused.promoted and refused.reason.startswith(f"it was rolled back to version {first}")
    written = tags(world, "stays", second)
    assert (written["ganline.promoted"], written["ganline.reason"]) == ("false", refused.reason)
    assert json.loads(written["ganline.decision"])["rule"] == "rolled_back"

    promote_version(world.client, "stays", second)
    assert "ganline.rolled_back" not in tags(world, "stays", second)
    promote(world.client, "stays", third)
    assert settle(world.client, "stays", second, judge(second, BETTER)).promoted


def test_a_report_is_uploaded_before_the_lock_is_taken(world, monkeypatch):
    """An upload of any length must not outlast the lock."""
    first, second = world.release("upload", 0), world.release("upload", 1)
    promote(world.client, "upload", first)
    held = []
    upload = world.client.log_artifact
    monkeypatch.setattr(world.client, "log_artifact", lambda *args: (held.append(locks(world)), upload(*args)))
    assert settle(world.client, "upload", second, judge(second, BETTER, b"{}")).promoted
    assert held == [[]]
    assert "ganline.evaluation" in tags(world, "upload", second)


def test_dying_between_any_two_steps_leaves_a_champion_and_can_be_mended(world):
    one, two, three = (world.release("steps", seed) for seed in range(3))
    finished = 0
    for calls in range(20):
        promote(world.client, "steps", one)
        promote(world.client, "steps", two)
        for alias, version in (("champion", two), ("previous", one)):
            world.client.set_registered_model_alias("steps", alias, str(version))
        world.client.delete_model_version_tag("steps", str(three), "ganline.decision")
        try:
            settle(Dying(world.client, calls), "steps", three, judge(three, BETTER))
            finished += 1
        except KeyboardInterrupt:
            assert champion_version(world.client, "steps") in (two, three)
        if champion_version(world.client, "steps") == three:
            assert json.loads(tags(world, "steps", three)["ganline.decision"])["promoted"]
        settle(world.client, "steps", three, judge(three, BETTER))
        assert aliases(world, "steps") == {"champion": three, "previous": two}
        if finished:
            break
    assert finished == 1
    assert calls == 5  # three tags, two aliases
    assert locks(world) == []


def test_a_rollback_cut_off_at_any_step_is_completed_by_the_next(world):
    one, two = world.release("cut", 0), world.release("cut", 1)
    finished = False
    calls = 0
    while not finished:
        for alias, version in (("champion", two), ("previous", one)):
            world.client.set_registered_model_alias("cut", alias, str(version))
        for version in (one, two):
            world.client.set_model_version_tag("cut", str(version), "ganline.rolled_back", "once")
        try:
            rollback(Dying(world.client, calls), "cut")
            finished = True
        except KeyboardInterrupt:
            assert champion_version(world.client, "cut") in (one, two)
            rollback(world.client, "cut")
        assert aliases(world, "cut") == {"champion": one, "previous": two}, calls
        assert "ganline.rolling_back" not in world.client.get_registered_model("cut").tags
        calls += 1
    assert calls >= 6


def test_many_promotions_at_once_go_one_after_the_other(world):
    versions = [world.release("crowd", seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        releases = list(pool.map(lambda version: promote(connect(world.storage), "crowd", version), versions))
    assert all(release.promoted for release in releases)
    decisions = [json.loads(tags(world, "crowd", version)["ganline.decision"]) for version in versions]
    over = {version: decision["against"] for version, decision in zip(versions, decisions, strict=True)}
    chain, at = [], aliases(world, "crowd")["champion"]
    while at is not None:
        chain.append(at)
        at = over[at]
    assert sorted(chain) == versions  # each was promoted over the one before: none saw another half-way
    assert aliases(world, "crowd") == {"champion": chain[0], "previous": chain[1]}
    assert locks(world) == []


JUDGE = """
import json, sys, time
from pathlib import Path
from pipeline.registry.gate import Measured, Rules, decide
from pipeline.registry.releases import settle
from pipeline.registry.server import client
from pipeline.storage import Storage
root, model, version, meeting = sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])
seen = []
def judge(champion):
    seen.append(champion)
    (meeting / str(version)).touch()
    while len(list(meeting.iterdir())) < 2:  # both have looked at the same champion before either promotes
        time.sleep(0.01)
    interval = (-4.0, -3.1, -2.2) if champion == 1 else (2.2, 3.1, 4.0)
    decision = decide(champion=champion, candidate_version=version, interval=interval,
                      measured=Measured(2000, 2000, 2), rules=Rules())
    return decision, None
released = settle(client(Storage(root)), model, version, judge)
print(json.dumps({"version": version, "promoted": released.promoted, "reason": released.reason, "seen": seen}))
"""


@pytest.fixture(params=["sqlite", "server"])
def shared(request, world, tmp_path, monkeypatch):
    """A registry that two processes share: a sqlite file, or a server by HTTP."""
    if request.param == "sqlite":
        yield world
        return
    server = MlflowServer(tmp_path)
    server.start()
    try:
        server.ready()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
        client = MlflowClient(server.uri)
        yield replace(world, client=client, run_id=open_run(client, world.config, "dots-1", world.dataset))
    finally:
        server.kill()


def test_of_two_processes_one_wins_and_the_other_is_judged_again(shared, tmp_path):
    first, *rivals = (shared.release("rivals", seed) for seed in range(3))
    promote(shared.client, "rivals", first)
    meeting = tmp_path / "meeting"
    meeting.mkdir()
    command = [sys.executable, "-c", JUDGE, shared.storage.uri, "rivals"]
    both = [
        subprocess.Popen([*command, str(version), str(meeting)], stdout=subprocess.PIPE, text=True)
        for version in rivals
    ]  # fmt: skip
    told = [json.loads(process.communicate(timeout=120)[0]) for process in both]
    winner, loser = sorted(told, key=lambda one: not one["promoted"])
    assert (winner["promoted"], winner["seen"]) == (True, [first])
    assert (loser["promoted"], loser["seen"]) == (False, [first, winner["version"]])
    assert f"3.1 worse than version {winner['version']}" in loser["reason"]
    assert aliases(shared, "rivals") == {"champion": winner["version"], "previous": first}
    for one in told:
        (entry,) = record(shared, "rivals", one["version"])
        assert (entry["promoted"], entry["against"]) == (one["promoted"], one["seen"][-1])
    assert locks(shared) == []


def test_moving_an_alias_imports_no_torch():
    modules = "import sys, pipeline.registry.releases, pipeline.registry.history, pipeline.registry.server"
    heavy = "sys.exit(', '.join({'torch', 'ray', 'prefect'} & sys.modules.keys()) or 0)"
    assert subprocess.run([sys.executable, "-c", f"{modules}; {heavy}"], check=False).returncode == 0
