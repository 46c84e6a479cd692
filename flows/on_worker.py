"""A flow run that one of Prefect's workers has started: nobody sits before it, so what happens goes to its log."""

import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit
from uuid import UUID

from prefect import get_run_logger, runtime
from prefect.client.orchestration import get_client
from prefect.exceptions import Abort, TerminationSignal
from prefect.states import Cancelled

from flows import preflight
from flows.command import not_lost
from flows.progress_lines import Lines
from pipeline.config import Config
from pipeline.errors import Stopped, UserError
from pipeline.on_ray import one_cluster
from pipeline.progress import watcher
from pipeline.redact import RedactedRecord, redact_within
from pipeline.registry.server import artifact_location, tracking_uri
from pipeline.storage import Storage

_LINE_SECONDS = 30.0
log = logging.getLogger(__name__)


@contextmanager
def in_log() -> Iterator[None]:
    """Notes and progress go to the flow run's log, and no secret."""
    logging.setLogRecordFactory(RedactedRecord)
    logger = get_run_logger()
    token = watcher.set(Lines(lambda line: logger.info("%s", redact_within(line)), _LINE_SECONDS))
    try:
        yield
    finally:
        watcher.reset(token)


@contextmanager
def on_worker(config: Config, storage: Storage, restart: bool, fork: str | None) -> Iterator[None]:
    """What `ganline run` has around a flow. Raises what its checks raise; where SIGTERM ended the run it says why."""
    hook, sys.unraisablehook = sys.unraisablehook, not_lost
    try:
        with in_log():
            check_registry(storage)
            preflight.check_run(config, storage, restart, fork)
            storage.prepare()
            with one_cluster():
                yield
    except (Stopped, TerminationSignal) as stopped:
        if isinstance(stopped, Stopped) and stopped.signal_number != signal.SIGTERM:
            raise
        _tell_if_cancelled(str(stopped) or "stopped by SIGTERM")
        raise TerminationSignal(signal.SIGTERM) from stopped
    finally:
        sys.unraisablehook = hook


def _tell_if_cancelled(said: str) -> None:
    """Raises Abort, and ends the flow run, where a person's wish in Prefect sent the signal: it has not crashed."""
    try:
        with get_client(sync_client=True) as client:
            run = client.read_flow_run(UUID(runtime.flow_run.id))
            cancelled = bool(run.state and run.state.is_cancelling())
            if cancelled:
                client.set_flow_run_state(run.id, Cancelled(message=said), force=True)
    except Exception:  # the server is away: then the run has crashed, as far as it will know
        log.warning("cannot see whether this flow run is cancelled", exc_info=True)
        return
    if cancelled:
        raise Abort(said)


def check_registry(storage: Storage) -> None:
    """Raises UserError for releases that would lie in the working directory: Prefect deletes it after the run."""
    uri = artifact_location(tracking_uri(storage))
    there = Path(unquote(urlsplit(uri).path)) if uri else None
    if there is None or (storage.is_local and there.is_relative_to(storage.local_path().resolve())):
        return
    if there.is_relative_to(Path.cwd()):
        raise UserError(
            "releases would be kept in the working directory of this one run; set MLFLOW_TRACKING_URI to an MLflow"
            " server in the worker's environment, or deploy with a storage root on a disk that workers share"
        )
