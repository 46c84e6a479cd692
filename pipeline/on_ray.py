"""A Ray to work on: the one that `RAY_ADDRESS` names, or a cluster of our own on this machine."""

import gc
import logging
import os
import signal
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import Any

import ray
from ray.exceptions import NodeDiedError, ObjectLostError, OutOfMemoryError, RayTaskError, WorkerCrashedError

from pipeline.errors import Unavailable, UserError
from pipeline.patience import first_line
from pipeline.ray_guard import guarded
from pipeline.redact import redact

TRIES = 3  # of a task whose process dies
_FREED_SECONDS = 5.0

# Where a Ray that was started stays until a whole command ends, not a stage.
_keeper: ContextVar[ExitStack | None] = ContextVar("keeper", default=None)


@contextmanager
def one_cluster() -> Iterator[None]:
    """Within, the first `cluster()` that starts Ray leaves it running for the next ones, until the outermost ends."""
    if _keeper.get():
        yield
        return
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


def other_machines() -> bool:
    """Whether the cluster that RAY_ADDRESS names, or that this process is in, has CPUs on others than this machine.

    Starts no Ray of our own. Raises Unavailable where none answers at RAY_ADDRESS.
    """
    if not ray.is_initialized() and os.environ.get("RAY_ADDRESS", "local") in ("", "local"):
        return False
    with cluster():
        here = ray.get_runtime_context().get_node_id()
        others = (node for node in ray.nodes() if node["Alive"] and node["NodeID"] != here)
        return any(node["Resources"].get("CPU") for node in others)


def has_room() -> bool:
    """Whether the cluster has a CPU free, or soon has: what a group of workers held is not free at once."""
    deadline = time.monotonic() + _FREED_SECONDS
    with cluster():
        while ray.available_resources().get("CPU", 0) < 1:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.2)
    return True


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
        with _own_sigterm(), _in_groups_of_their_own():
            _join(address, own)
        gc.collect()
        stack.callback(gc.unfreeze)
        gc.freeze()  # what Ray has imported stays: to look through it for garbage takes 60 ms each time
        yield


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Ray puts in a SIGTERM handler of its own when it starts, which exits, and takes out any when it ends."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit as exit:
        if exit.code == signal.SIGTERM and callable(handler):
            handler(signal.SIGTERM, None)
        raise
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


_apart = threading.Event()  # set while what is started is to have a process group of its own


@contextmanager
def _in_groups_of_their_own() -> Iterator[None]:
    """Processes that are started within, which are Ray's: a signal for the group of this one, as supervisors send it,
    would end them under the run that it asks to stop at a checkpoint."""
    _listen_for_forks()
    _apart.set()
    try:
        yield
    finally:
        _apart.clear()


@cache
def _listen_for_forks() -> None:
    os.register_at_fork(after_in_child=lambda: os.setpgrp() if _apart.is_set() else None)


def _join(address: str, own: dict[str, Any]) -> None:
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.WARNING, **own)
    except ConnectionError as error:
        raise Unavailable(
            f"no Ray cluster answers at RAY_ADDRESS={redact(address)}: {first_line(error)};"
            " start it, or unset RAY_ADDRESS to run on this machine"
        ) from None
    except RuntimeError as error:
        if address == "local":
            raise
        raise UserError(
            f"the Ray cluster at RAY_ADDRESS={redact(address)} can not be joined: {first_line(error)};"
            " install there what is installed here, or unset RAY_ADDRESS to run on this machine"
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


def insisting(
    run: Callable[..., Iterator[Any]], function: Callable[..., Any], shared: Any, arguments: Iterable[Any]
) -> Iterator[Any]:
    """As `run`, which is `run_tasks`; but a task that died is tried again by itself, and is Died after `TRIES`."""
    for result in run(function, shared, arguments):
        for _ in range(TRIES - 1):
            if isinstance(result, Died):
                (result,) = run(function, shared, [result.argument])
        yield result


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
