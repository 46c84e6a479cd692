"""What is to happen to a run, and what did: the other side of tests/chaos/inject."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

# kill: SIGKILL to the process itself; kill soon: after `seconds`, in the middle of what it does then. freeze: SIGSTOP.
# wait: it stands still for `seconds`. full: the write ends as on a full disk. poison: not a number in the step's noise.
Deed = Literal["kill", "kill soon", "freeze", "wait", "full", "poison"]

INJECTED = Path(__file__).parent.parent / "chaos" / "inject"


@dataclass(frozen=True)
class Disturbance:
    """`do` at each step, or at each write of a file whose path contains `path`, from step `first` to `last`; by that
    rank, or any. What is no checkpoint's file is written at step 0.

    `times`: in all for writes, for each step of steps; below zero: always.
    """

    name: str
    do: Deed
    at: Literal["step", "write"] = "step"
    first: int = 0
    last: int = 1 << 60
    rank: int | None = None
    path: str = ""
    times: int = 1
    seconds: float = 0.0


def at_step(do: Deed, step: int, rank: int | None = None, **rest: Any) -> Disturbance:
    return Disturbance(f"{do} {step} {rank}".replace(" ", "-"), do, "step", step, step, rank, **rest)


@dataclass(frozen=True)
class Step:
    """One that a rank took. `rows`: a checksum of what it saw of each stream; `weights`: of both networks after it."""

    time: float
    pid: int
    rank: int
    world: int
    step: int
    rows: dict[str, int]
    weights: int


@dataclass
class Disturbances:
    folder: Path
    plan: list[Disturbance] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir()
        self.will()

    def will(self, *more: Disturbance) -> None:
        """On top of what it was told before; holds from the next step or write on, in processes that run as well."""
        self.plan += more
        whole = self.folder / "plan.json.new"
        whole.write_text(json.dumps([asdict(one) for one in self.plan]))
        whole.rename(self.folder / "plan.json")

    def forget(self) -> None:
        self.plan.clear()
        self.will()

    @property
    def environment(self) -> dict[str, str]:
        return {"GANLINE_CHAOS": str(self.folder)}

    def came(self, name: str) -> list[dict]:
        """Time, pid and rank of each time that it came, in order of time."""
        return sorted((json.loads(path.read_text()) for path in self.folder.glob(f"{name}-*")), key=lambda c: c["time"])

    def steps(self) -> list[Step]:
        """In order of time; a line that a kill cut short is left out."""
        found = []
        for path in self.folder.glob("steps-*.jsonl"):
            for line in path.read_text().splitlines(keepends=True):
                if line.endswith("}\n"):
                    found.append(Step(**json.loads(line)))
        return sorted(found, key=lambda step: step.time)

    def at(self) -> int:
        """The last step that any rank took, -1 before the first."""
        steps = self.steps()
        return steps[-1].step if steps else -1

    def seconds_to_next_step(self, since: float) -> float:
        """From a death until a rank of a new group takes a step."""
        before = {step.pid for step in self.steps() if step.time <= since}
        return min(step.time for step in self.steps() if step.time > since and step.pid not in before) - since

    def consumed(self) -> dict[int, dict[str, int]]:
        """What the run saw at each step of each stream. Asserts that it saw the same whenever it took that step."""
        seen: dict[int, dict[str, int]] = {}
        for step in self.steps():
            for stream, rows in step.rows.items():
                assert seen.setdefault(step.step, {}).setdefault(stream, rows) == rows, (step, stream)
        return seen

    def weights(self) -> dict[int, int]:
        """After each step. Asserts that they were the same on every rank, and whenever the run took that step."""
        after: dict[int, int] = {}
        for step in self.steps():
            assert after.setdefault(step.step, step.weights) == step.weights, step
        return after
