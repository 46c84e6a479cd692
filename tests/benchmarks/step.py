"""Images/s of a training step of the 32 px networks, against the plainest float32 loop in torch, and of its options.

    python tests/benchmarks/step.py [--options TEXT] [--pairs 20] [--out step.json]

Batch 64 on two threads, non-saturating loss, R1 every fourth step on both sides. With `--options` instead: what each
option whose name has TEXT in it gives, against the same step without it; all of them with "". They are added to the
file. Exit code 1 if a bar is missed: in bf16 1.6 times the loop, in float32 0.95 of it at the interval's lower end.
"""

import argparse
import json
import shlex
import sys
from contextlib import ExitStack
from pathlib import Path

from pngs import report
from steps import BATCH, ours, plainest
from turns import race, side, told

from ganmodels.spec import NetworkSpec

BF16, FLOAT32 = 1.6, 0.95
SPEC = NetworkSpec("dcgan", 32, 3)
COMMAND = shlex.join(["python", *sys.argv])
EACH, FOURTH, SIXTEENTH = ({"r1": 1.0, "penalty_every": every} for every in (1, 4, 16))
DIFFERENCE = {"penalty_method": "finite_difference"}
# By option: how the step is with it, and without it; steps at a time; recipe, bf16, channels_last.
TABLE: dict[str, tuple[tuple, tuple, int]] = {
    "precision bf16": ((FOURTH, True), (FOURTH,), 4),
    "channels_last, float32": ((FOURTH,), (FOURTH, False, False), 4),
    "channels_last, bf16": ((FOURTH, True), (FOURTH, True, False), 4),
    "R1 every 4th step, not each": ((FOURTH,), (EACH,), 4),
    "R1 every 16th step, not each": ((SIXTEENTH,), (EACH,), 16),
    "R1 by finite differences, each step, float32": (({**EACH, **DIFFERENCE},), (EACH,), 4),
    "R1 by finite differences, each step, bf16": (({**EACH, **DIFFERENCE}, True), (EACH, True), 4),
    "compile, exact R1, float32": (({**FOURTH, "compile": True},), (FOURTH,), 4),
    "compile, exact R1, bf16": (({**FOURTH, "compile": True}, True), (FOURTH, True), 4),
    "compile, R1 by finite differences, float32": (
        ({**FOURTH, **DIFFERENCE, "compile": True},), ({**FOURTH, **DIFFERENCE},), 4,
    ),
    "compile, R1 by finite differences, bf16": (
        ({**FOURTH, **DIFFERENCE, "compile": True}, True), ({**FOURTH, **DIFFERENCE}, True), 4,
    ),
}  # fmt: skip


def against_the_loop(pairs: int) -> dict[str, dict]:
    with ExitStack() as sides:
        loop = sides.enter_context(side(plainest, SPEC, FOURTH))
        found = {}
        for name, bf16 in (("float32", False), ("bf16", True)):
            with side(ours, SPEC, FOURTH, bf16) as mine:
                found[name] = race(mine, loop, 4, pairs, BATCH)
    return found


def of_options(text: str, pairs: int) -> dict[str, dict]:
    found = {}
    for name, (having, lacking, times) in TABLE.items():
        if text not in name:
            continue
        with side(ours, SPEC, *having) as mine, side(ours, SPEC, *lacking) as other:
            found[name] = {"command": COMMAND, **race(mine, other, times, pairs, BATCH)}
        print(told(name, found[name]), flush=True)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--options")
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.options is not None:
        known = json.loads(given.out.read_text())["options"] if given.out and given.out.exists() else {}
        report([], {"options": known | of_options(given.options, given.pairs)}, given.out)
        return 0
    found = against_the_loop(given.pairs)
    report(
        [
            told(f"float32, to the plainest loop (aim: from {FLOAT32})", found["float32"]),
            told(f"bf16, to the plainest loop (aim {BF16})", found["bf16"]),
        ],
        {"against_the_loop": found},
        given.out,
    )
    return int(found["bf16"]["ratio"]["value"] < BF16 or found["float32"]["ratio"]["low"] < FLOAT32)


if __name__ == "__main__":
    sys.exit(main())
