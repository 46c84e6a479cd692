import json
import math
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException

from pipeline.errors import UserError
from pipeline.registry.gate import Decision, decide
from pipeline.registry.lookup import lookup
from pipeline.registry.promotion_lock import promotion_lock
from pipeline.registry.releases import (
    champion_version,
    log_evaluation,
    promote,
    promote_version,
    record_decision,
    rollback,
    settle,
)
from pipeline.registry.server import client as connect

WORSE = {"interval": (2.2, 3.1, 4.0), "images_generated": 2000, "images_held_out": 2000, "seeds": 2}
BETTER = {**WORSE, "interval": (-4.0, -3.1, -2.2)}


def aliases(world, model: str) -> dict[str, int]:
    there = world.client.get_registered_model(model).aliases
    return {alias: int(version) for alias, version in there.items()}


def tags(world, model: str, version: int) -> dict[str, str]:
    return world.client.get_model_version(model, str(version)).tags


def locks(world) -> list[str]:
    return [one.name for one in world.client.search_registered_models() if "lock" in one.name]


def judge(version: int, figures: dict, report: bytes | None = None):
    return lambda champion: (decide(champion=champion, candidate_version=version, **figures), report)


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
    for report in (b"{}", b"[]", b"{}"):
        evidence = log_evaluation(world.client, world.client.get_model_version("reports", str(version)), report)
        record_decision(world.client, "reports", version, decision, evidence)
        paths.add(tags(world, "reports", version)["ganline.evaluation"])
    assert len(paths) == 2
    assert all(path.startswith("release/") and path.endswith("/evaluation.json") for path in paths)


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
    assert time.monotonic() - began < 10
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
        assert time.monotonic() - began < 10
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


def test_only_one_holds_the_lock_even_when_an_expired_one_is_taken_away(world):
    """Eight at once fall upon a lock that nobody will give back."""
    world.client.create_registered_model("busy.promotion-lock", {"ganline.expires": "1.0", "ganline.owner": "dead"})
    inside, most = [], []

    def work(number):
        client = connect(world.storage)
        with promotion_lock(client, "busy", wait=60):
            inside.append(number)
            most.append(len(inside))
            time.sleep(0.05)
            inside.remove(number)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert most == [1] * 8
    assert locks(world) == ["busy.promotion-lock.dead"]  # remembered for a day: never taken away twice
    world.client.delete_registered_model("busy.promotion-lock.dead")


def test_one_who_overstayed_does_not_give_back_anothers_lock(world):
    with promotion_lock(world.client, "slow", expires_after=0.1) as mine:
        time.sleep(0.2)
        with promotion_lock(world.client, "slow", wait=5) as theirs:
            with pytest.raises(UserError, match="longer than its lock lasts"):
                mine.check()
            theirs.check()
            owner = world.client.get_registered_model("slow.promotion-lock").tags["ganline.owner"]
            taken_away = [name for name in locks(world) if name != "slow.promotion-lock"]
            # What `mine` does when it ends:
            with pytest.raises(MlflowException, match="already exists"):
                world.client.rename_registered_model("slow.promotion-lock", taken_away[0])
            assert world.client.get_registered_model("slow.promotion-lock").tags["ganline.owner"] == owner
    for name in locks(world):
        assert name != "slow.promotion-lock"
        world.client.delete_registered_model(name)


def test_waiting_for_a_lock_ends(world):
    first, _ = world.release("held", 0), promote(world.client, "held", 1)
    with promotion_lock(world.client, "held"):
        began = time.monotonic()
        with (
            pytest.raises(UserError, match=f"held is being promoted by process {os.getpid()} on") as error,
            promotion_lock(world.client, "held", wait=0.5),
        ):
            pass
        assert 0.5 <= time.monotonic() - began < 5
        assert "\n" not in str(error.value)
        assert lookup("held@champion", world.storage).version == first  # readers never wait
    assert locks(world) == []


def test_a_lock_is_given_back_when_promoting_fails(world):
    with pytest.raises(ZeroDivisionError), promotion_lock(world.client, "failing"):
        raise ZeroDivisionError
    assert locks(world) == []


def test_a_lock_is_no_model(world):
    version = world.release("alone", 0)
    promote(world.client, "alone", version)
    with promotion_lock(world.client, "alone"):
        with pytest.raises(UserError, match=r"there is .*alone") as error:
            lookup("not-there@champion", world.storage)
        assert "lock" not in str(error.value)
        with pytest.raises(UserError, match="locks; choose another"):
            lookup("alone.promotion-lock@champion", world.storage)
    with pytest.raises(UserError, match="locks; choose another"):
        world.release("mine.promotion-lock", 0)


HOLD = """
import sys, time
from pipeline.registry.promotion_lock import promotion_lock
from pipeline.registry.server import client
from pipeline.storage import Storage
with promotion_lock(client(Storage(sys.argv[1])), "killed", expires_after=float(sys.argv[2])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_the_lock_of_a_killed_promoter_expires(world):
    version = world.release("killed", 0)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, world.storage.uri, "3"], stdout=subprocess.PIPE, text=True
    )  # fmt: skip
    try:
        assert holder.stdout.readline() == "held\n"
        expires = float(world.client.get_registered_model("killed.promotion-lock").tags["ganline.expires"])
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with pytest.raises(UserError, match="is being promoted"), promotion_lock(world.client, "killed", wait=0):
            pass
        assert promote(world.client, "killed", version).promoted
        assert 0 <= time.time() - expires < 8
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    assert aliases(world, "killed") == {"champion": version}
    for name in locks(world):
        assert name.startswith("killed.promotion-lock.")
        world.client.delete_registered_model(name)
