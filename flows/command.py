"""What surrounds every command: the exit code, the one-line error, the log file."""

import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Timer

import typer

from flows.console import Console, shown_path
from pipeline.errors import RunFailed, Stopped, Terminated, Unavailable, UserError, WorkerFailed
from pipeline.redact import RedactedRecord, redact_within
from pipeline.storage import DEFAULT_ROOT, Storage

EXIT_FAILED, EXIT_BAD_INPUT = 1, 2
_SOON_SECONDS = 0.1


def run_command(act: Callable[[Console], None], as_json: bool, resumable: bool = False, restart: bool = False) -> None:
    """Runs `act` and turns what it raises into one line on standard error and an exit code.

    0: done; 1: failed; 2: bad input; 128 + the signal's number: stopped by it.
    """
    console = Console(as_json)
    signal.signal(signal.SIGTERM, _terminate)
    sys.unraisablehook = not_lost
    logging.setLogRecordFactory(RedactedRecord)
    # With --restart it would not continue: what there is by now would be deleted.
    again = f"start the same command again{' without --restart' if restart else ''} and it continues"
    hint, once_mended = (f"; {again}", f"; once that is mended, {again}") if resumable else ("", "")
    try:
        act(console)
    except UserError as error:
        if isinstance(error, Unavailable) and console.begun:  # it was there when the command began
            console.say(f"ganline: {error}{once_mended}")
            raise typer.Exit(EXIT_FAILED) from None
        console.say(f"ganline: {error}")
        raise typer.Exit(EXIT_BAD_INPUT) from None
    except RunFailed as failed:
        console.say(f"ganline: {failed}{once_mended if isinstance(failed, WorkerFailed) else ''}")
        raise typer.Exit(EXIT_FAILED) from None
    except Terminated:
        console.say(f"stopped by SIGTERM{hint}")
        raise typer.Exit(128 + signal.SIGTERM) from None
    except Stopped as stopped:
        console.say(f"{stopped}{hint}")
        raise typer.Exit(128 + stopped.signal_number if stopped.signal_number else EXIT_FAILED) from None
    except KeyboardInterrupt:
        console.say(f"interrupted{hint}")
        raise typer.Exit(128 + signal.SIGINT) from None
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0]
        where = f"; see {shown_path(console.log_path)}" if console.log_path else ""
        console.say(f"ganline: failed: {type(error).__name__}: {first}{where}{once_mended}")
        raise typer.Exit(EXIT_FAILED) from None


def _terminate(number: int, frame: object) -> None:
    """SIGTERM unwinds like Ctrl-C, so that what was started is ended."""
    raise Terminated


def not_lost(dropped: "sys.UnraisableHookArgs") -> None:
    """A signal that came amid a finalizer or a fork, where Python drops exceptions, comes once more."""
    error = dropped.exc_value
    if isinstance(error, KeyboardInterrupt):
        number = signal.SIGINT
    elif isinstance(error, Terminated) or signal.SIGTERM in (
        getattr(error, "code", None), getattr(error, "signal", None),  # Ray's way; Prefect's
    ):  # fmt: skip
        number = signal.SIGTERM
    else:
        return sys.__unraisablehook__(dropped)
    soon = Timer(_SOON_SECONDS, os.kill, (os.getpid(), number))  # now it would be dropped again
    soon.daemon = True
    soon.start()


@contextmanager
def working(console: Console, place: Storage | None, command: str) -> Iterator[None]:
    """Sends chatter to a log file meanwhile, and the trace of an unexpected failure with it.

    The log lies in the storage root; a command that changes nothing gives none, and leaves a log only if it fails.
    """
    with console.captured(local_root(place) / "logs" if place else None, command):
        try:
            yield
        except (UserError, Stopped):
            raise
        except Exception:
            print(redact_within(traceback.format_exc()), file=sys.stderr)
            raise


def local_root(place: Storage) -> Path:
    """Where this machine's own files go: the storage root if that is on local disk."""
    return place.local_path() if place.is_local else Path(DEFAULT_ROOT).resolve()
