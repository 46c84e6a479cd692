"""The command's manners: help, exit codes, one-line errors, one JSON object."""

import json
import logging
import signal
import subprocess
import sys

import pytest
import typer

from flows.command import run_command
from flows.generate import split_grid
from pipeline import errors

COMMANDS = ["run", "shard", "train", "lookup", "generate", "export", "evaluate", "release", "releases", "promote"]
COMMANDS += ["rollback"]
COMMANDS += ["index", "verify", "doctor", "config show", "config validate", "config digest"]
COMMANDS += ["runs", "runs list", "runs show", "runs prune"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(embedded, command):
    result = embedded(*command.split(), "--help")
    assert result.code == 0
    assert f"Example: ganline {command}" in " ".join(result.out.split())
    assert "--json" in result.out


def test_config_show_prints_the_resolved_recipe(embedded):
    shown = embedded("config", "show", "mnist", "--json", "--set", "training.images=5").json
    assert shown["training"]["images"] == 5
    assert (shown["data"]["resolution"], shown["data"]["encoding"]) == (28, "raw")


def test_config_digest_follows_every_key(embedded):
    first = embedded("config", "digest", "mnist", "--json").json["digest"]
    assert embedded("config", "digest", "mnist").out.strip() == first
    assert embedded("config", "digest", "mnist", "--set", "training.images=5", "--json").json["digest"] != first


def test_json_stays_alone_on_standard_output(embedded):
    result = embedded("config", "show", "mnist", "--json")
    assert len(result.out.splitlines()) == 1
    json.loads(result.out)


@pytest.fixture
def ends(capfd):
    """How a command ends that raises this: its exit code and what it says."""
    handler, factory, hook = signal.getsignal(signal.SIGTERM), logging.getLogRecordFactory(), sys.unraisablehook

    def end(error: BaseException, begun: bool = True, **how: bool) -> tuple[int, str]:
        def act(console):
            console.begun = begun
            raise error

        with pytest.raises(typer.Exit) as end:
            run_command(act, as_json=False, **how)
        return end.value.exit_code, capfd.readouterr().err.strip()

    yield end
    signal.signal(signal.SIGTERM, handler)
    logging.setLogRecordFactory(factory)
    sys.unraisablehook = hook


AGAIN = "start the same command again and it continues"


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (errors.Stopped("stopped at image 5", signal.SIGINT), 130, f"stopped at image 5; {AGAIN}"),
        (errors.WorkerFailed("a worker failed"), 1, f"ganline: a worker failed; once that is mended, {AGAIN}"),
        (OSError("disk full"), 1, f"ganline: failed: OSError: disk full; once that is mended, {AGAIN}"),
        (errors.Unavailable("it is away"), 1, f"ganline: it is away; once that is mended, {AGAIN}"),
        (errors.RunFailed("diverged; lower it"), 1, "ganline: diverged; lower it"),
        (errors.UserError("a mistake"), 2, "ganline: a mistake"),
    ],
)  # fmt: skip
def test_whoever_is_stopped_in_mid_work_is_told_how_to_go_on(ends, error, code, said):
    assert ends(error, resumable=True) == (code, said)


def test_a_server_that_is_away_from_the_start_is_a_mistake(ends):
    assert ends(errors.Unavailable("it is away"), begun=False, resumable=True) == (2, "ganline: it is away")


def test_what_was_begun_anew_continues_without_restart(ends):
    code, said = ends(errors.Stopped("stopped", signal.SIGTERM), resumable=True, restart=True)
    assert (code, said) == (143, "stopped; start the same command again without --restart and it continues")


# A signal that arrives while a finalizer runs, whose exceptions Python drops; and while Ray starts, which takes it for
# itself.
SIGNALLED = """
import os, signal, sys, time
import typer
from flows.command import run_command
from pipeline.on_ray import _own_sigterm

class Finalized:
    def __del__(self):
        os.kill(os.getpid(), number)
        time.sleep(0.1)

def act(console):
    with _own_sigterm():
        if ray:
            signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))
            os.kill(os.getpid(), number)
        Finalized()
    time.sleep(5)

number, ray = int(sys.argv[1]), sys.argv[2] == "ray"
try:
    run_command(act, as_json=False, resumable=True)
except typer.Exit as end:
    sys.exit(end.exit_code)
"""


@pytest.mark.parametrize(("number", "starting"), [(signal.SIGINT, "-"), (signal.SIGTERM, "-"), (signal.SIGTERM, "ray")])
def test_no_moment_swallows_a_signal(number, starting):
    command = [sys.executable, "-c", SIGNALLED, str(int(number)), starting]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 128 + number and done.stderr.strip().endswith(AGAIN), done.stderr


FAILING = """
import logging, sys
from flows.command import run_command, working
from pipeline.storage import Storage

def act(console):
    with working(console, Storage("root"), "fail"):
        try:
            raise ValueError("no answer from http://me:hunter2@there/api?token=hunter2")
        except ValueError as error:
            logging.getLogger("anybody").exception("see %s", "s3://key:hunter2@bucket/x")
            raise

run_command(act, as_json=False)
"""


def test_no_secret_reaches_the_terminal_or_the_log_which_only_its_owner_reads(tmp_path):
    done = subprocess.run([sys.executable, "-c", FAILING], cwd=tmp_path, capture_output=True, text=True)
    (log,) = (tmp_path / "root/logs").iterdir()
    assert "http://***@there" in done.stderr and "hunter2" not in done.stdout + done.stderr
    written = log.read_text()
    assert written.count("http://***@there") == 2 and "s3://***@bucket" in written and "hunter2" not in written
    assert log.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("out", "split"),
    [
        ("/g.png", ("/", "g.png")),
        ("g.png", (".", "g.png")),
        ("what?/g.png", ("what?", "g.png")),
        ("s3://b/x/g.png", ("s3://b/x", "g.png")),
        ("s3://b/x/g.png?endpoint_override=http://h:1/p", ("s3://b/x?endpoint_override=http://h:1/p", "g.png")),
    ],
)
def test_a_grid_goes_where_its_path_says(out, split):
    assert split_grid(out) == split
