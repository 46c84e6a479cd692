"""The check for GPUs, as far as a machine without one can rehearse it."""

import json
import subprocess
import sys
from pathlib import Path

import gpu_gradients
import pytest
import torch
from gpu_resume import killed_and_left_alone
from gpu_steps import in_fewest, noise_images, small_spec

from pipeline.recipe import presets

SCRIPT = str(Path(__file__).parent / "gpu_check.py")


def gpu_check(*arguments: str, at: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, SCRIPT, "--json", str(at / "found.json"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=400)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA here: run make gpu-check")
def test_without_cuda_it_says_so_in_one_line(tmp_path):
    done = gpu_check(at=tmp_path)
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.startswith("no CUDA here") and done.stderr.count("\n") == 1
    assert not (tmp_path / "found.json").exists()


@pytest.mark.slow
def test_a_rehearsal_tries_every_preset_and_tells_each_check_in_a_line(tmp_path):
    done = gpu_check("--device", "cpu", "--only", "build", "gradients", "bf16", "step", at=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert list(found["checks"]) == ["build", "gradients", "bf16", *(f"step {name}" for name in presets())]
    *lines, last = done.stdout.splitlines()
    assert [line.split(": ")[0] for line in lines] == [f"ok      {name}" for name in found["checks"]]
    assert last.startswith(f"{len(lines)} checks, 0 failed")
    assert not found["failed"] and "torch" in found["machine"]
    gradients = found["checks"]["gradients"]["figures"]
    assert len(gradients["apart"]) == 70 and max(gradients["apart"].values()) < 1e-8
    steps = [check["figures"] for name, check in found["checks"].items() if name.startswith("step")]
    assert all(figures["images_per_second"] > 0 for figures in steps)


def test_a_check_that_fails_is_told_and_ends_with_1(tmp_path):
    broken = "import gpu_check; gpu_check.FAR_BF16 = -1.0; import sys; sys.exit(gpu_check.main())"
    arguments = ["--device", "cpu", "--only", "bf16", "--json", str(tmp_path / "found.json")]
    done = subprocess.run(
        [sys.executable, "-c", broken, *arguments], cwd=Path(SCRIPT).parent, capture_output=True, text=True
    )
    assert done.returncode == 1 and done.stdout.startswith("FAILED  bf16: ")
    assert json.loads((tmp_path / "found.json").read_text())["failed"] == ["bf16"]


def test_ranks_have_the_rows_of_one_process():
    whole = noise_images(small_spec("dcgan"), gpu_gradients.BATCH)
    halves = [noise_images(small_spec("dcgan"), gpu_gradients.BATCH, rank=rank, world=2) for rank in (0, 1)]
    for together, *parts in zip(whole, *halves, strict=True):
        assert torch.equal(together, torch.cat(parts))


def test_what_does_not_fit_is_taken_in_more_parts():
    tried = []

    def attempt(parts: int) -> str:
        tried.append(parts)
        if parts < 4:
            raise torch.OutOfMemoryError
        return "done"

    assert in_fewest([1, 2, 4, 8], attempt) == "done" and tried == [1, 2, 4]
    with pytest.raises(torch.OutOfMemoryError):
        in_fewest([1, 2], attempt)


@pytest.mark.slow
def test_a_killed_process_ends_with_the_same_bits():
    found = killed_and_left_alone("dcgan", torch.device("cpu"))
    assert found.killed_at > 0 and found.killed_apart == found.again_apart == 0
