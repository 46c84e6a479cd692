"""Bitwise resume, and the same global batches at every world size."""

import itertools

import pytest
import torch

from ganmodels.randomness import latents
from ganmodels.saving import from_bytes
from pipeline.shards.damage import read_skips
from pipeline.training.run import begin_anew, skips_folder

WAYS = {
    "learning_rate": {"from": 1e-3, "to": 1e-4, "over": 300}, "beta2": {"from": 0.9, "to": 0.99, "over": 300},
    "r1": {"from": 2, "to": 0.5, "over": 200, "shape": "ramp"}, "ema_half_life": {"from": 0, "to": 200, "over": 300},
}  # fmt: skip
PARTS = {"accumulate": 2, "loss": "relativistic_average", "gp": 1.0, "penalty_method": "finite_difference", **WAYS}
ADA = {"augment": "ada", "augment_p": {"from": 0, "to": 1, "over": 300}}
STYLEGAN2 = {"family": "stylegan2", "w_dim": 8, "mapping_layers": 2, "group": 2}

CASES = [
    pytest.param(1, {}, id="1-fp32"),
    pytest.param(
        1,
        {"bf16": True, "model": {"family": "resnet"}, "loss": "relativistic", "r2": 1.0, "augment": "diffaugment"},
        id="1-bf16-resnet",
    ),
    pytest.param(2, {"bf16": True, **PARTS, **ADA}, id="2-bf16-parts"),
    # DDP's ring adds in another order from three ranks on if its buckets change after the first step.
    pytest.param(3, {}, id="3-fp32"),
    pytest.param(2, {"model": STYLEGAN2}, id="2-fp32-stylegan2"),
    pytest.param(
        4, {"bf16": True, "model": {"family": "resnet", "bigan": True}, "penalty_every": 1}, id="4-bf16-resnet-bigan"
    ),
]


@pytest.mark.parametrize(("world", "how"), CASES)
def test_a_stopped_run_ends_with_the_bits_of_one_left_alone(trainer, run_name, world, how):
    alone = trainer(run_name(), world, **how)
    run, consumed, figures = run_name(), {}, []
    # At the first step, between two points and two checkpoints, at the end.
    for stop_at in (1, 6, None) if world < 3 else (6, None):
        part = trainer(run, world, stop_at=stop_at, **how)
        consumed |= part.consumed
        figures = part.figures
    for name in alone.files:
        assert part.files[name] == alone.files[name], name
    assert figures == alone.figures
    assert consumed == alone.consumed


def test_every_world_size_trains_on_the_same_rows_and_starts_alike(trainer, run_name):
    runs = {world: trainer(run_name(), world, images=160, log_every=16) for world in (1, 2, 3)}
    for one, other in itertools.pairwise(runs.values()):
        assert one.consumed == other.consumed
        for (images, ours), (_, theirs) in zip(one.figures, other.figures, strict=True):
            for name in ("loss_g", "loss_d", "logit_real", "logit_fake"):
                assert ours[name] == pytest.approx(theirs[name], abs=1e-4), (images, name)


def test_a_run_can_go_on_with_more_or_fewer_workers(trainer, run_name):
    run, consumed = run_name(), {}
    for world, stop_at in ((1, 5), (3, 7), (2, None)):
        consumed |= trainer(run, world, stop_at=stop_at).consumed
    assert consumed == trainer(run_name(), 1).consumed


def test_in_float64_a_group_that_shrinks_and_grows_ends_with_the_weights_of_one_that_does_not(trainer, run_name):
    how = {"images": 16 * 200, "double": True, "checkpoint_every": 1600}
    alone, run = trainer(run_name(), 2, **how), run_name()
    for world, stop_at in ((2, 60), (1, 60), (3, None)):
        part = trainer(run, world, stop_at=stop_at, **how)
    for name in ("generator", "discriminator", "ema", "optimizer_g", "optimizer_d"):
        ours, theirs = (from_bytes(each.files[f"{name}.safetensors"]) for each in (part, alone))
        assert max(float((ours[key] - theirs[key]).abs().max()) for key in theirs) < 1e-8, name


VIEW = {"mirror": True, "balance": True, "only": ["light"]}


def test_views_and_flips_train_the_same_after_a_stop_and_with_a_process_that_reads(trainer, run_name):
    alone = trainer(run_name(), data=VIEW, images=160)
    run = run_name()
    trainer(run, data=VIEW, images=160, stop_at=4)
    resumed = trainer(run, data={**VIEW, "loaders": 1}, images=160)
    assert resumed.files == alone.files


def test_a_run_that_skips_keeps_its_steps_and_resumes_bitwise(trainer, run_name):
    tars = sorted(trainer.storage.local_path("datasets/t/shards").glob("*.tar"))
    whole = {tar: tar.read_bytes() for tar in tars}
    try:
        for tar in tars:
            tar.write_bytes(whole[tar][: len(whole[tar]) // 2])
        alone = trainer(run_name(), data={"on_damage": "skip"}, images=160)
        run = run_name()
        trainer(run, data={"on_damage": "skip"}, images=160, stop_at=5)
        met = read_skips(trainer.storage, skips_folder(run))
        resumed = trainer(run, data={"on_damage": "skip"}, images=160)
    finally:
        for tar, data in whole.items():
            tar.write_bytes(data)
    assert len(met) > 20 and set(alone.consumed) == {str(step) for step in range(10)}
    assert resumed.files == alone.files
    begin_anew(trainer.storage, run)
    assert read_skips(trainer.storage, skips_folder(run)) == []


def test_more_images_go_on_from_the_end(trainer, run_name):
    run = run_name()
    trainer(run, images=160)
    longer = trainer(run, images=320)
    assert set(longer.consumed) == {str(step) for step in range(10, 20)}
    alone = trainer(run_name(), images=320)
    assert longer.files["ema.safetensors"] == alone.files["ema.safetensors"]


def test_a_run_can_start_from_other_weights(trainer, run_name, tmp_path):
    trained = trainer(run_name(), seed=5)
    (tmp_path / "init").write_bytes(trained.files["ema.safetensors"])
    given = from_bytes(trained.files["ema.safetensors"])
    begun = trainer(run_name(), 2, images=16, learning_rate=1e-6, init=tmp_path / "init")
    after = from_bytes(begun.files["generator.safetensors"])
    for name, tensor in given.items():
        if "running" not in name:  # Adam's first step moves a weight by the learning rate at most
            torch.testing.assert_close(after[name], tensor, atol=2e-6, rtol=0)


def test_the_average_and_the_seed_matter(trainer, run_name):
    first, again, other = (trainer(run_name(), images=160, seed=seed) for seed in (0, 0, 1))
    assert first.files["ema.safetensors"] == again.files["ema.safetensors"]
    assert first.files["ema.safetensors"] != other.files["ema.safetensors"]
    ema, network = (from_bytes(first.files[f"{name}.safetensors"]) for name in ("ema", "generator"))
    assert ema.keys() == network.keys()
    assert any(not torch.equal(ema[name], network[name]) for name in ema)


def test_noise_is_a_function_of_seed_step_and_stream():
    draws = [latents(4, 8, seed, step, "noise", stream) for seed in (0, 1) for step in (0, 1) for stream in (0, 1)]
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(draws, 2))
    assert torch.equal(latents(4, 8, 0, 1, "noise", 1), draws[3])
