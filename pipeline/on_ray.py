"""A Ray to work on: the one that `RAY_ADDRESS` names, or a cluster of our own on this machine."""

import gc
import logging
import os
import signal
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import NodeDiedError, ObjectLostError, OutOfMemoryError, RayTaskError, WorkerCrashedError

from pipeline.errors import Unavailable
from pipeline.ray_guard import guarded

# Where a Ray that was started stays until a whole command ends, not a stage.
_keeper: ContextVar[ExitStack | None] = ContextVar("keeper", default=None)


@contextmanager
def one_cluster() -> Iterator[None]:
    """Within, the first `cluster()` that starts Ray leaves it running for the next ones."""
    with ExitStack() as stack:
        token = _keeper.set(stack)
        try:
            yield
        finally:
            _keeper.reset(token)


@contextmanager
def cluster() -> Iterator[None]:
    """Starts or joins a Ray cluster; does nothing if this process is in one already."""
    keeper = _keeper.get()
    if ray.is_initialized():
        yield
    elif keeper:
        keeper.enter_context(_started())
        yield
    else:
        with _started():
            yield


@contextmanager
def _started() -> Iterator[None]:
    # `ray.init()` without an address would attach to whatever runs, or hang on the address file of a dead
    # cluster: "local" starts our own.
    address = os.environ.get("RAY_ADDRESS") or "local"
    with ExitStack() as stack:
        own: dict[str, Any] = {}
        if address == "local":
            # In a folder of its own, which goes when it goes: Ray never clears its sessions away.
            folder = tempfile.mkdtemp(prefix="ganline-ray-")
            stack.enter_context(guarded(folder))
            own = {"include_dashboard": False, "_temp_dir": folder}
        stack.enter_context(_own_sigterm())
        stack.callback(ray.shutdown)
        with _own_sigterm():
            _join(address, own)
        gc.collect()
        stack.callback(gc.unfreeze)
        gc.freeze()  # what Ray has imported stays: to look through it for garbage takes 60 ms each time
        yield


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Ray puts in a SIGTERM handler of its own when it starts, and takes out any when it ends."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def _join(address: str, own: dict[str, Any]) -> None:
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.WARNING, **own)
    except ConnectionError as error:
        raise Unavailable(
            f"no Ray cluster answers at RAY_ADDRESS={address}: {str(error).splitlines()[0]};"
            " start it, or unset RAY_ADDRESS to run on this machine"
        ) from None


@dataclass(frozen=True)
class Died:
    """What `run_tasks` gives for an argument whose task's process died, or took its result with it."""

    argument: Any


def run_tasks(
    function: Callable[..., Any], shared: Any, arguments: Iterable[Any], at_once: int | None = None
) -> Iterator[Any]:
    """`function(shared, argument)` for each argument as Ray tasks of one CPU; results in the order of arguments.

    A few more tasks than there are CPUs are under way at once, so results never pile up.
    """
    shared_ref = ray.put(shared)
    limit = at_once or int(ray.cluster_resources().get("CPU", 1)) + 2
    under_way: deque[tuple[Any, ray.ObjectRef]] = deque()
    for argument in arguments:
        under_way.append((argument, _task.remote(function, shared_ref, argument)))
        if len(under_way) >= limit:
            yield _result(*under_way.popleft())
    while under_way:
        yield _result(*under_way.popleft())


# One for all functions, so that workers which have done one kind of work have what they need for the next. Whether a
# task that died is tried again is the caller's matter: Ray would, for ever where memory ran out.
@ray.remote(num_cpus=1, max_retries=0)
def _task(function: Callable[..., Any], shared: Any, argument: Any) -> Any:
    return function(shared, argument)


def _result(argument: Any, task: ray.ObjectRef) -> Any:
    """Raises what the task raised, not Ray's wrapping of it."""
    try:
        return ray.get(task)
    except RayTaskError as error:
        raise error.cause from None
    except (WorkerCrashedError, OutOfMemoryError, NodeDiedError, ObjectLostError):
        return Died(argument)
