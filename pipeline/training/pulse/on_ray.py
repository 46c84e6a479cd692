"""Workers tell the cluster's own key-value store once a second that they live, and where they are.

A process that is stopped, or whose machine hangs, is not dead to Ray, and the others wait for it in a collective:
nobody but it is silent.
"""

import json
import logging
import os
import signal
import socket
import time
from dataclasses import dataclass
from threading import Event, Thread

import ray
from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_get, _internal_kv_put
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

_SECONDS = 1.0
_NAMESPACE = "ganline"
_BLIND_SECONDS = 5.0  # in which nobody looked: then silence in between says nothing
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Beat:
    """The `count`th of a worker, at the `step` that it takes; `node` is Ray's id."""

    rank: int
    count: int
    step: int
    pid: int
    host: str
    node: str


class Pulse:
    """A worker's side."""

    def __init__(self, group: str, rank: int):
        self.step = 0
        self._key, self._rank, self._ended = _key(group, rank), rank, Event()
        self._node = ray.get_runtime_context().get_node_id()
        Thread(target=self._beat, name="pulse", daemon=True).start()

    def at_step(self, step: int) -> None:
        self.step = step

    def end(self) -> None:
        self._ended.set()

    def _beat(self) -> None:
        count = 0
        while True:
            count += 1
            beat = Beat(self._rank, count, self.step, os.getpid(), socket.gethostname(), self._node)
            try:
                _internal_kv_put(self._key, json.dumps(vars(beat)), overwrite=True, namespace=_NAMESPACE)
            except Exception:  # the head is away: Ray knows what to do about it
                log.warning("cannot tell that rank %d lives", self._rank, exc_info=True)
            if self._ended.wait(_SECONDS):
                return


class Listener:
    """The driver's side. A worker that was never heard is not there yet, and Ray waits for it."""

    def __init__(self, group: str, workers: int, patience: float):
        self._group, self._workers, self._patience = group, workers, patience
        self._heard: dict[int, tuple[Beat, float]] = {}
        self._looked = time.monotonic()

    @property
    def nodes(self) -> set[str]:
        """Those that workers are on."""
        return {beat.node for beat, _ in self._heard.values()}

    @property
    def step(self) -> int:
        """The latest that any worker takes: those that wait for another are at its step."""
        return max((beat.step for beat, _ in self._heard.values()), default=0)

    def silent(self) -> list[Beat]:
        """The last beat of each worker from which none came for `patience` seconds."""
        now = time.monotonic()
        blind, self._looked = now - self._looked > _BLIND_SECONDS, now
        for rank in range(self._workers):
            told = _internal_kv_get(_key(self._group, rank), namespace=_NAMESPACE)
            before = self._heard.get(rank)
            if told and (blind or before is None or json.loads(told)["count"] != before[0].count):
                self._heard[rank] = Beat(**json.loads(told)), now
        return [beat for beat, since in self._heard.values() if now - since > self._patience]

    def forget(self) -> None:
        for rank in range(self._workers):
            _internal_kv_del(_key(self._group, rank), namespace=_NAMESPACE)


def kill(beat: Beat) -> None:
    """Ends the worker's process, which listens to nothing else."""
    if beat.node == ray.get_runtime_context().get_node_id():
        _kill(beat.pid)
        return
    there = NodeAffinitySchedulingStrategy(beat.node, soft=False)
    ray.remote(num_cpus=0, max_retries=0)(_kill).options(scheduling_strategy=there).remote(beat.pid)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        log.info("process %d was gone already", pid)


def _key(group: str, rank: int) -> str:
    return f"pulse/{group}/{rank}"
