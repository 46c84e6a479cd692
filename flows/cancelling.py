"""A flow run that is cancelled in Prefect ends like one that Ctrl-C ends: at a checkpoint.

Prefect's workers send the processes that they start a SIGTERM. One that was started by hand nobody tells.
"""

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.flows import FlowStateHook
from prefect.states import Cancelled

from pipeline.progress import note, watcher

_LOOK_SECONDS = 3.0
log = logging.getLogger(__name__)


@contextmanager
def cancellable() -> Iterator[FlowStateHook]:
    """Yields a hook for the flow's `on_running`: once its run is to be cancelled this process gets a SIGTERM, and at
    the end Prefect is told that it is cancelled."""
    over, told = Event(), watcher.get()
    cancelled: list[UUID] = []

    def look(flow_run: UUID) -> None:
        watcher.set(told)  # a thread has a context of its own
        with get_client(sync_client=True) as client:
            while not over.wait(_LOOK_SECONDS):
                try:
                    state = client.read_flow_run(flow_run).state
                except Exception:
                    log.warning("cannot see whether this flow run is cancelled", exc_info=True)
                    continue
                if state and state.is_cancelling():
                    cancelled.append(flow_run)
                    note("the flow run is cancelled in Prefect")
                    os.kill(os.getpid(), signal.SIGTERM)
                    return

    def on_running(flow: Any, flow_run: Any, state: Any) -> None:
        Thread(target=look, args=(flow_run.id,), name="cancelled", daemon=True).start()

    try:
        yield on_running
    finally:
        over.set()
        for flow_run in cancelled:
            try:
                with get_client(sync_client=True) as client:
                    client.set_flow_run_state(flow_run, Cancelled(), force=True)
            except Exception:
                log.warning("Prefect was not told that flow run %s is cancelled", flow_run, exc_info=True)
