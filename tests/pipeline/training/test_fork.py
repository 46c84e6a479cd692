"""A fork begins with another run's checkpoint, all its state, and leaves that run as it was."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from flows import stages
from flows.summary import training_values
from ganmodels.ada.strength import Strength
from ganmodels.spec import NetworkSpec
from pipeline.config import Config, Training
from pipeline.errors import UserError
from pipeline.registry.server import client
from pipeline.shards.manifest import DatasetRef
from pipeline.training.checkpoint import (
    CheckpointRef,
    list_checkpoints,
    load_checkpoint,
    newest_checkpoint,
    read_files,
    save_checkpoint,
)
from pipeline.training.fork import begin_fork, check_same_networks, find_origin, keep_origin, lineage, origin_of
from pipeline.training.health import Health
from pipeline.training.plan import plan_run
from pipeline.training.plateau import Best
from pipeline.training.pruning import Releases, prune
from pipeline.training.run import describe, description
from pipeline.training.state import fresh_state

OLD = "t-old"
FEW = {"images": 160, "checkpoint_every": 1000}


@pytest.fixture(scope="module")
def old(trainer):
    """A run of ten steps, stopped twice: it has checkpoints of steps 4, 8 and 10."""
    for stop_at in (4, 4, None):
        trained = trainer(OLD, stop_at=stop_at, **FEW)
    spec = plan_run(trainer.storage, trainer.config(**FEW), trainer.dataset).spec
    describe(trainer.storage, OLD, {"dataset": asdict(trainer.dataset), "spec": spec.to_dict()})
    return trained


def _fork(trainer, origin: CheckpointRef, **training) -> str:
    """A run of a recipe that begins with that checkpoint, as `stages.train` begins one."""
    config = trainer.config(**{**FEW, **training})
    run = plan_run(trainer.storage, config, trainer.dataset, fork=origin).run
    begin_fork(trainer.storage, run, origin, trainer.dataset, config.training.batch)
    return run


def _contents(trainer, run: str) -> dict[Path, bytes]:
    folder = trainer.storage.local_path(f"runs/{run}")
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_fork_ends_with_the_bits_of_the_run_that_it_came_from(trainer, old):
    origin = find_origin(trainer.storage, f"{OLD}@4")
    run = _fork(trainer, origin)
    forked = trainer(run, **FEW)
    assert run != OLD and set(forked.consumed) == {str(step) for step in range(4, 10)}
    assert forked.files == old.files


def test_a_fork_under_another_recipe_goes_its_own_way_and_leaves_the_old_run_alone(trainer, old):
    before = _contents(trainer, OLD)
    run = _fork(trainer, find_origin(trainer.storage, f"{OLD}@4"), learning_rate=1e-3, loss="hinge")
    forked = trainer(run, **FEW, learning_rate=1e-3, loss="hinge")
    assert forked.files["ema.safetensors"] != old.files["ema.safetensors"]
    assert _contents(trainer, OLD) == before
    first = list_checkpoints(trainer.storage, run)[-1]
    assert (first.step, first.images, first.attempt) == (4, 64, 0)
    prune(trainer.storage, run, [], lambda: Releases("", {}), last=1, best=0, really=True)
    assert [one.step for one in list_checkpoints(trainer.storage, run)] == [10, 4]  # what it began with is kept


def test_what_a_fork_began_with_is_in_its_first_checkpoint(trainer, old):
    origin = find_origin(trainer.storage, OLD)
    assert origin.step == 10
    run = _fork(trainer, origin, images=320)
    first = newest_checkpoint(trainer.storage, run)
    complete = json.loads(trainer.storage.read(f"{first.path}/COMPLETE"))
    assert complete["forked_from"] == {"run": OLD, "step": 10, "digest": origin.digest} == lineage(origin)
    assert read_files(trainer.storage, first) == read_files(trainer.storage, origin)
    begin_fork(trainer.storage, run, origin, trainer.dataset, 16)  # to begin again is to go on
    assert [one.path for one in list_checkpoints(trainer.storage, run)] == [first.path]


def test_a_fork_says_where_it_came_from_goes_on_and_begins_anew_from_there(trainer, old, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    values = trainer.config(**FEW, learning_rate=1e-3).model_dump()
    config = Config.model_validate({**values, "cluster": {"workers": 0}})
    named = f"{OLD}@4"
    forked = stages.train(trainer.storage, config, trainer.dataset, fork=named)
    told = lineage(find_origin(trainer.storage, named))
    assert training_values(forked)["run"]["forked_from"] == told == {"run": OLD, "step": 4, "digest": told["digest"]}
    assert description(trainer.storage, forked.run)["forked_from"] == told
    registry = client(trainer.storage)
    assert registry.get_run(forked.mlflow_run).data.tags["ganline.forked_from"] == named
    assert (forked.resumed_from, forked.checkpoint.images) == (64, 160)
    files = read_files(trainer.storage, forked.checkpoint)
    again = stages.train(trainer.storage, config, trainer.dataset, fork=named)
    assert (again.run, again.reused, again.forked_from) == (forked.run, True, told)
    anew = stages.train(trainer.storage, config, trainer.dataset, restart=True, fork=named)
    assert (anew.run, anew.resumed_from, anew.reused) == (forked.run, 64, False)
    assert read_files(trainer.storage, anew.checkpoint) == files


def test_the_checkpoint_is_part_of_what_a_fork_is_and_no_fork_keeps_its_name(trainer, old):
    plain, four, eight, ten = (
        plan_run(trainer.storage, trainer.config(images=320), trainer.dataset, fork=fork).run
        for fork in (None, *(find_origin(trainer.storage, f"{OLD}@{step}") for step in (4, 8, 10)))
    )
    assert len({plain, four, eight, ten}) == 4
    config = trainer.config(images=320)
    assert plain == config.run_name(trainer.dataset.digest, "fp32")


def test_the_same_command_goes_on_with_the_same_fork_when_the_old_run_has_gone_on(trainer, old):
    config, then = trainer.config(images=320), find_origin(trainer.storage, f"{OLD}@8")
    keep_origin(trainer.storage, config, trainer.dataset, OLD, then)
    assert origin_of(trainer.storage, config, trainer.dataset, OLD, anew=False) == (then, True)
    now, begun = origin_of(trainer.storage, config, trainer.dataset, OLD, anew=True)
    assert (now.step, begun) == (10, False)
    other = trainer.config(images=320, learning_rate=1e-3)
    assert origin_of(trainer.storage, other, trainer.dataset, OLD, anew=False) == (now, False)


def test_with_another_batch_images_are_counted_on(trainer, old):
    run = _fork(trainer, find_origin(trainer.storage, f"{OLD}@4"), batch=32)
    first = newest_checkpoint(trainer.storage, run)
    assert (first.step, first.images) == (2, 64)
    trained = trainer(run, **FEW, batch=32)
    assert set(trained.consumed) == {"2", "3", "4"}


def test_another_version_of_the_data_takes_over_no_measurements(trainer, old, run_name):
    origin = find_origin(trainer.storage, f"{OLD}@4")
    path = f"{origin.path}/COMPLETE"
    before = trainer.storage.read(path)
    trainer.storage.write(path, json.dumps({**json.loads(before), "metrics": {"frechet": 3.0}}).encode())
    try:
        measured = find_origin(trainer.storage, f"{OLD}@4")
        same, other = run_name(), run_name()
        begin_fork(trainer.storage, same, measured, trainer.dataset, 16)
        begin_fork(trainer.storage, other, measured, DatasetRef("t", "0" * 64), 16)
    finally:
        trainer.storage.write(path, before)
    assert [list_checkpoints(trainer.storage, run)[0].metrics for run in (same, other)] == [{"frechet": 3.0}, {}]


def test_another_version_of_the_data_has_no_best_yet(trainer, run_name):
    state = fresh_state(NetworkSpec("dcgan", 16, 1, width=4, z_dim=4), Training(), torch.device("cpu"))
    state.step, state.best = 4, Best(3.0, 32, 1)
    run, forks = run_name(), (run_name(), run_name())
    origin = save_checkpoint(trainer.storage, run, state.snapshot(), 16)
    describe(trainer.storage, run, {"dataset": asdict(trainer.dataset)})
    for fork, dataset in zip(forks, (trainer.dataset, DatasetRef("t", "0" * 64)), strict=True):
        begin_fork(trainer.storage, fork, origin, dataset, 16)
    begun = []
    for fork in forks:
        load_checkpoint(trainer.storage, newest_checkpoint(trainer.storage, fork), state)
        begun.append(state.best)
    assert begun == [Best(3.0, 32, 1), Best()]


def test_a_run_that_went_back_to_half_its_learning_rate_leaves_that_to_itself(trainer, run_name):
    state = fresh_state(NetworkSpec("dcgan", 16, 1, width=4, z_dim=4), Training(), torch.device("cpu"))
    state.step, state.health, state.strength = 4, Health(skipped=20, rate=0.5), Strength(p=0.25)
    run, fork = run_name(), run_name()
    origin = save_checkpoint(trainer.storage, run, state.snapshot(), 16)
    describe(trainer.storage, run, {"dataset": asdict(trainer.dataset)})
    begin_fork(trainer.storage, fork, origin, trainer.dataset, 16)
    begun = fresh_state(NetworkSpec("dcgan", 16, 1, width=4, z_dim=4), Training(), torch.device("cpu"))
    load_checkpoint(trainer.storage, newest_checkpoint(trainer.storage, fork), begun)
    assert (begun.step, begun.health, begun.strength) == (4, Health(), state.strength)


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("nobody@4", "no run nobody"),
        (f"{OLD}@5", "no complete checkpoint of that step; run t-old has 4, 8, 10"),
        (f"{OLD}@last", "no complete checkpoint of that step; run t-old has 4, 8, 10"),
    ],
)
def test_a_checkpoint_that_is_not_there_is_refused_with_those_that_are(trainer, old, named, said):
    with pytest.raises(UserError, match=said):
        find_origin(trainer.storage, named)


def test_a_damaged_checkpoint_is_refused_and_so_is_one_that_went_meanwhile(trainer, old, run_name):
    origin = find_origin(trainer.storage, f"{OLD}@8")
    path = f"{origin.path}/ema.safetensors"
    whole = trainer.storage.read(path)
    trainer.storage.write(path, whole[:-1])
    try:
        with pytest.raises(UserError, match="is not the file that COMPLETE names; run t-old has 4, 8"):
            find_origin(trainer.storage, f"{OLD}@8")
        run = run_name()
        with pytest.raises(UserError, match="gone or damaged"):
            begin_fork(trainer.storage, run, origin, trainer.dataset, 16)
        assert not trainer.storage.local_path(f"runs/{run}").exists()
    finally:
        trainer.storage.write(path, whole)


def test_what_leaves_nothing_to_train_is_refused(trainer, old):
    origin = find_origin(trainer.storage, OLD)

    def plan(config: Config) -> None:
        plan_run(trainer.storage, config, trainer.dataset, fork=origin)

    with pytest.raises(UserError, match="has seen 160 images already; raise"):
        plan(trainer.config(images=160))
    with pytest.raises(UserError, match="no whole number of batches of 64"):
        plan(trainer.config(images=320, batch=64))


def test_other_networks_are_refused_with_what_differs(trainer, old):
    origin, spec = find_origin(trainer.storage, OLD), NetworkSpec("dcgan", 16, 1, classes=2, width=9, z_dim=8)
    with pytest.raises(UserError, match="other networks than the recipe: width is 8 there and 9 here;"):
        check_same_networks(trainer.storage, origin, spec)
