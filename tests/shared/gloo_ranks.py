"""Processes that form a gloo group of any size up to their number, as often as asked."""

import importlib.util
import pickle
import traceback
import warnings
from collections.abc import Callable
from datetime import timedelta
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.distributed as dist
from forks import FORKS

DEADLINE_S = 240  # for an answer, on a machine that others work on too; a collective gives up well before
COLLECTIVE_S = 120


class GlooRanks:
    def __init__(self, most: int, folder: Path):
        self.most, self.folder, self.runs = most, folder, 0
        self.processes: list[tuple[Any, Connection]] = []

    def run(self, world: int, function: Callable, *args: Any) -> list[Any]:
        """`function(rank, world, *args)` in a group of `world` ranks; what each returned, by rank.

        The function stands at the top of its file. Pass and return plain values and arrays.
        """
        self.processes = self.processes or [self._start() for _ in range(self.most)]
        self.runs += 1
        try:
            return self._run(world, function, args)
        except BaseException:
            self.stop()  # one may be stuck, or have an answer left that would be taken for the next
            raise

    def stop(self) -> None:
        for process, _ in self.processes:
            process.kill()
        for process, _ in self.processes:
            process.join()
        self.processes = []

    def _start(self) -> tuple[Any, Connection]:
        here, there = FORKS.Pipe()
        process = FORKS.Process(target=_serve, args=(there,), daemon=True)
        process.start()
        there.close()
        return process, here

    def _run(self, world: int, function: Callable, args: tuple) -> list[Any]:
        pipes = [pipe for _, pipe in self.processes[:world]]
        store = str(self.folder / f"store{self.runs}")
        for rank, pipe in enumerate(pipes):
            pipe.send((function.__code__.co_filename, function.__name__, rank, world, store, args))
        answers = []
        for rank, pipe in enumerate(pipes):
            assert pipe.poll(DEADLINE_S), f"rank {rank} of {world} does not answer"
            answers.append(pickle.loads(pipe.recv_bytes()))
        failures = [f"rank {rank}:\n{value}" for rank, (done, value) in enumerate(answers) if not done]
        assert not failures, "\n".join(failures)
        return [value for _, value in answers]


def _serve(pipe: Connection) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("error", FutureWarning)  # what torch is about to take away
    while True:
        file, name, rank, world, store, args = pipe.recv()
        try:
            # The last group goes only now, when all have answered: a rank that leaves while
            # another still connects to it breaks that one.
            if dist.is_initialized():
                dist.destroy_process_group()
            dist.init_process_group(
                "gloo", f"file://{store}", timeout=timedelta(seconds=COLLECTIVE_S), rank=rank, world_size=world
            )
            answer = True, getattr(_module(file), name)(rank, world, *args)
        except Exception:
            answer = False, traceback.format_exc()
        # Plain pickle: a Pipe would send tensors as handles to memory that the sender owns.
        pipe.send_bytes(pickle.dumps(answer))


@cache
def _module(file: str) -> ModuleType:
    """By path: pytest's importlib mode gives test modules names that no other process can import."""
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
