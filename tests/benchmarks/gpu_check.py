"""Does Ganline do on this machine's GPUs what it promises? For the first machine that has some: `make gpu-check`.

Nobody has run Ganline on a GPU where it was written; this is what there is to find out. One line a check, with its
figures:

  build      versions and devices
  gradients  two processes' gradients are those of one on the whole batch: every family and an encoder, every loss and
             penalty, in float64; over NCCL with two GPUs or more, else over gloo, with both processes on the one GPU
  bf16       a step in bf16 is close to the same step in float32, for every family and with an encoder
  step       images/s and peak memory of one process's training step of each preset, in the preset's precision
  resume     a training process that is killed and started again ends with the bits of one left alone
  command    `ganline run mnist`, shortened: the whole way through Ray, to a release

The images of the steps are noise: no dataset is needed. Exit code 0: all passed; 1: one failed; 2: there is no CUDA.
`--device cpu` rehearses all of it, with tiny networks in the steps, and measures nothing worth knowing.

Example: python tests/benchmarks/gpu_check.py --json gpu_check.json
"""

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from gpu_gradients import gradients_apart
from gpu_resume import CASES, killed_and_left_alone
from gpu_steps import bf16_apart, timed_step

from pipeline.recipe import presets
from pipeline.training.determinism import be_deterministic

GANLINE = str(Path(sys.executable).parent / "ganline")
FAR = 1e-8  # relative, of float64 gradients of two processes and of one
FAR_BF16 = 0.05  # of a loss in bf16 and in float32
COMMAND = ["run", "mnist", "--set", "training.images=10000", "--json"]


@dataclass
class Outcome:
    """What a check says of itself in a line, and its figures. `ok` None: a part of it could not be tried here."""

    ok: bool | None
    said: str
    figures: dict[str, Any] = field(default_factory=dict)


def main() -> int:
    given = arguments()
    if given.device == "cuda" and not torch.cuda.is_available():
        print("no CUDA here: run it on a machine with an NVIDIA GPU, or rehearse it with --device cpu", file=sys.stderr)
        return 2
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # DDP's doubts about what is meant so
    device = torch.device("cuda", 0) if given.device == "cuda" else torch.device("cpu")
    be_deterministic(device)  # as training is, at whatever speed that has
    outcomes = {}
    for name, check in checks():
        if given.only and name.partition(" ")[0] not in given.only:
            continue
        try:
            outcome = check(device)
        except Exception as error:
            first = f"{type(error).__name__}: {error}".strip().partition("\n")[0]
            outcome = Outcome(False, first, {"trace": traceback.format_exc()})
        outcomes[name] = outcome
        print(f"{_WORDS[outcome.ok]:7} {name}: {outcome.said}", flush=True)
    failed = [name for name, outcome in outcomes.items() if outcome.ok is False]
    result = {
        "command": shlex.join(["python", "tests/benchmarks/gpu_check.py", *sys.argv[1:]]),
        "machine": machine(), "failed": failed,
        "checks": {name: asdict(outcome) for name, outcome in outcomes.items()},
    }  # fmt: skip
    given.json.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{len(outcomes)} checks, {len(failed)} failed; {given.json}")
    return int(bool(failed))


_WORDS = {True: "ok", False: "FAILED", None: "in part"}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu: a rehearsal")
    parser.add_argument("--only", nargs="+", metavar="CHECK", help="build, gradients, bf16, step, resume, command")
    parser.add_argument("--json", type=Path, default=Path("gpu_check.json"), help="where all figures go")
    return parser.parse_args()


def checks() -> Iterator[tuple[str, Callable[[torch.device], Outcome]]]:
    yield "build", check_build
    yield "gradients", check_gradients
    yield "bf16", check_bf16
    for name in presets():
        yield f"step {name}", partial(check_step, name)
    for name in CASES:
        yield f"resume {name}", partial(check_resume, name)
    yield "command", check_command


def machine() -> dict[str, Any]:
    gpus = [torch.cuda.get_device_properties(place) for place in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(), "torch": torch.__version__, "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if gpus else None,
        "nccl": ".".join(map(str, torch.cuda.nccl.version())) if gpus else None,
        "gpus": [{"name": gpu.name, "gib": round(gpu.total_memory / 2**30, 1)} for gpu in gpus],
        "cpus": os.cpu_count(), "system": platform.platform(),
    }  # fmt: skip


def check_build(device: torch.device) -> Outcome:
    """A convolution, a matrix product and their gradients run at all."""
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Flatten(), torch.nn.Linear(8 * 14**2, 1))
    network.to(device)(torch.ones(2, 3, 16, 16, device=device)).sum().backward()
    found = machine()
    gpus = ", ".join(f"{gpu['name']} {gpu['gib']} GiB" for gpu in found["gpus"]) or "no GPU"
    said = f"torch {found['torch']}, CUDA {found['cuda']}, cuDNN {found['cudnn']}, NCCL {found['nccl']}; {gpus}"
    return Outcome(True, said, found)


def check_gradients(device: torch.device) -> Outcome:
    backend = "nccl" if device.type == "cuda" and torch.cuda.device_count() > 1 else "gloo"
    apart = gradients_apart(device, backend)
    worst = max(apart, key=lambda case: apart[case])
    figures = {"backend": backend, "allowed": FAR, "apart": apart}
    said = f"{len(apart)} cases over {backend}, {apart[worst]:.1e} apart at most ({worst}); {FAR:.0e} is allowed"
    if not apart[worst] <= FAR:  # NaN is far, too
        return Outcome(False, said, figures)
    if device.type == "cuda" and backend == "gloo":
        return Outcome(None, f"{said}; NCCL was not tried, which needs two GPUs", figures)
    return Outcome(True, said, figures)


def check_bf16(device: torch.device) -> Outcome:
    apart = bf16_apart(device)
    worst = max(apart, key=lambda case: apart[case])
    said = f"a step's losses are {apart[worst]:.3f} from float32's at most ({worst}); {FAR_BF16} is allowed"
    return Outcome(apart[worst] <= FAR_BF16, said, {"allowed": FAR_BF16, "apart": apart})


def check_step(name: str, device: torch.device) -> Outcome:
    timed = timed_step(name, device, rehearsal=device.type == "cpu")
    memory = f"{timed.peak_gib:.1f} GiB at most" if timed.peak_gib is not None else "memory unknown on a CPU"
    parts = f" in {timed.accumulate} parts" if timed.accumulate > 1 else ""
    said = f"{timed.images_per_second:,.0f} images/s, {memory}; batch {timed.batch}{parts}, {timed.precision}"
    return Outcome(True, said, asdict(timed))


def check_resume(name: str, device: torch.device) -> Outcome:
    found = killed_and_left_alone(name, device)
    figures = asdict(found)
    if found.killed_apart == 0:
        return Outcome(True, f"killed at image {found.killed_at:,}, it ends with the same bits", figures)
    said = f"killed at image {found.killed_at:,}, weights end {found.killed_apart:.1e} apart"
    if found.again_apart:
        said += f"; but so do two runs left alone, {found.again_apart:.1e}: kernels here are not deterministic"
    return Outcome(False, said, figures)


def check_command(device: torch.device) -> Outcome:
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([GANLINE, *COMMAND, "--storage", folder], capture_output=True, text=True)
    seconds = round(time.monotonic() - begun, 1)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [""])[-1]
        return Outcome(False, f"exit code {done.returncode}: {last}", {"stderr": done.stderr[-4000:]})
    told = json.loads(done.stdout)
    said = f"run {told['run']['id']}, release {told['release']['version']}, {seconds} s"
    return Outcome(True, said, {"seconds": seconds, **told})


if __name__ == "__main__":
    sys.exit(main())
