"""The gate on real digits: planted generators are refused for the right reason, and the champion stays."""

import time
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
import torch
from ganline_command import Ganline
from hurry import within

from flows import preflight, stages
from flows.dry_run import describe_run
from flows.model_card import card_of
from ganmodels.networks import build_generator
from ganmodels.randomness import keyed_seed
from ganmodels.saving import from_bytes, to_bytes
from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.evaluation.bootstrap import frechet_difference_interval
from pipeline.evaluation.one_thread import one_thread
from pipeline.recipe import load_config
from pipeline.registry.history import release_of
from pipeline.registry.lookup import load, lookup
from pipeline.registry.releases import Release, promote_version, register, rollback
from pipeline.registry.runs import open_run
from pipeline.registry.server import client
from pipeline.shards import on_ray
from pipeline.shards.manifest import DatasetRef
from pipeline.shards.read import DatasetReader
from pipeline.shards.shuffle import permutation
from pipeline.storage import Storage
from pipeline.training.checkpoint import save_checkpoint
from pipeline.training.plan import plan_run
from pipeline.training.state import fresh_state

SETS = ["model.width=8", "evaluation.images=300", "evaluation.minimum_images=200", "data.held_out=0.06"]
SETS += ["release.minimum_coverage=0"]  # of digits, an untrained network makes nothing like any


class Planted:
    """Releases a network as if a run had trained it."""

    def __init__(self, folder):
        self.storage = Storage(str(folder))
        self.config: Config = load_config("mnist", [*SETS, "name=gate"])
        self.dataset: DatasetRef = on_ray.shard_images(self.storage, "gate", self.config.data).dataset
        self.client = client(self.storage)

    def train(self, name: str, spoil=lambda tensors: None) -> stages.Training:
        """A run whose average is an untrained network, spoilt."""
        plan = plan_run(self.storage, self.config, self.dataset)
        state = fresh_state(plan.spec, self.config.training, torch.device("cpu"))
        state.ema.state_dict()["output.weight"].mul_(10)  # as initialised, its images are all but plain grey
        spoil(state.ema.state_dict())
        state.step = 1
        checkpoint = save_checkpoint(self.storage, name, state.snapshot(), self.config.training.batch)
        lineage = {**asdict(self.dataset), "samples": 5000, "classes": 10, "uri": "file:///nowhere"}
        return stages.Training(name, open_run(self.client, self.config, name, lineage), checkpoint, 0, {})

    def release(self, training: stages.Training, *sets: str) -> stages.Released:
        config = load_config("mnist", [*SETS, "name=gate", *sets])
        generator, _ = stages.candidate(self.storage, config, self.dataset, training)
        found = stages.evaluate(self.storage, config, self.dataset, generator)
        return stages.release(self.storage, config, self.dataset, training, found)

    def checks(self, version: int) -> dict[str, bool | None]:
        """What each rule came to when a version was last judged."""
        (last, *_) = release_of(self.client, "gate", version)[1]
        return {check["rule"]: check["passed"] for check in last["checks"]}

    def champion(self) -> int:
        return lookup("gate@champion", self.storage).version


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setattr(on_ray, "cluster", nullcontext)
        patch.setattr(on_ray, "run_tasks", lambda function, shared, each: (function(shared, one) for one in each))
        world = Planted(tmp_path_factory.mktemp("gate"))
        first = world.release(world.train("gate-first"))
        assert first.release.promoted and first.release.reason == "there was no champion"
        yield world


def _constant(tensors):
    for tensor in tensors.values():
        tensor.zero_()


def _not_a_number(tensors):
    next(iter(tensors.values())).view(-1)[0] = torch.nan


def _brighter(tensors):
    tensors["output.bias"] += 1.0  # further from dark digits


COVERED = "release.minimum_coverage=0.05"


@pytest.mark.parametrize(
    ("name", "spoil", "says", "against"),
    [
        ("gate-constant", _constant, "its images are one image", {"smoke", "problem", "coverage"}),
        ("gate-nan", _not_a_number, "weights are not finite", {"smoke", "problem"}),
        ("gate-worse", _brighter, "worse than version 1", {"interval"}),
        ("gate-equal", lambda tensors: None, "version 1", {"interval"}),
    ],
)
def test_a_planted_generator_is_refused_for_the_right_reason(planted, name, spoil, says, against):
    released = planted.release(planted.train(name, spoil), *([COVERED] if "coverage" in against else [])).release
    assert not released.promoted and says in released.reason
    assert planted.champion() == 1
    tags = planted.client.get_model_version("gate", str(released.version)).tags
    assert tags["ganline.promoted"] == "false" and tags["ganline.reason"] == released.reason
    checks = planted.checks(released.version)
    assert all(checks[rule] is False for rule in against) and (checks["smoke"] is False) == ("smoke" in against)


@pytest.mark.parametrize(
    ("name", "spoil", "sets", "rule"),
    [
        ("constant", _constant, [COVERED], "coverage"),
        ("nan", _not_a_number, [], "smoke"),
        ("too-far", lambda tensors: None, ["release.limits.frechet.most=1"], "limit frechet"),
        ("unknown", lambda tensors: None, ["release.limits.beauty.least=1"], "limit beauty"),
        ("uncovered", lambda tensors: None, [COVERED], "coverage"),
    ],
)
def test_the_first_release_of_a_model_is_refused_too(planted, name, spoil, sets, rule):
    model = f"first-{name}"
    released = planted.release(planted.train(f"gate-{model}", spoil), f"release.model={model}", *sets).release
    assert not released.promoted and released.alias is None
    ((decision,), listed) = release_of(planted.client, model, released.version)[::-1]
    assert decision["against"] is None and listed.aliases == ()
    assert rule in [check["rule"] for check in decision["checks"] if check["passed"] is False]


def test_an_artifact_that_is_not_what_was_registered_is_refused_and_judged_again_once_it_is(planted):
    """It was changed in the artifact store between registration and judgement: as if by who can write there."""
    training = planted.train("gate-tampered", lambda tensors: tensors["output.bias"].add_(0.01))
    generator, weights = stages.candidate(planted.storage, planted.config, planted.dataset, training)
    version = register(
        planted.client, model="tampered", run_id=training.mlflow_run, spec=generator.spec, weights=weights,
        lineage={
            "dataset": "d", "config": "c", "run": "r", "checkpoint": "s", "images": 64,
            "classes": list(generator.class_names),
        },
    )  # fmt: skip
    source = urlsplit(planted.client.get_model_version("tampered", str(version)).source).path
    file = next(Path(unquote(source)).rglob("generator.safetensors"))
    whole = file.read_bytes()
    load(f"tampered@{version}", planted.storage)  # the local cache has it whole
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    refused = planted.release(training, "release.model=tampered").release
    assert not refused.promoted and refused.version == version and "not the file that was released" in refused.reason
    file.write_bytes(whole)
    again = planted.release(training, "release.model=tampered")
    assert again.release.promoted and not again.reused


def test_a_generator_that_learned_training_images_by_heart_is_refused_though_it_measures_better(planted):
    """A DCGAN like any other, with ten digits in its weights, one a class: the champion falls far behind it."""
    reader = DatasetReader(planted.storage, planted.dataset, "train")
    images, labels = reader.read_all()
    # Copies of images that the evaluation does not sample go unseen.
    sampled = permutation(len(reader), keyed_seed("evaluation", "train"))[:200]
    digits = images[[next(at for at in sampled if labels[at] == digit) for digit in range(10)]]
    spec = plan_run(planted.storage, planted.config, planted.dataset).spec
    weights = _by_heart(spec, digits)
    training = planted.train("gate-by-heart", lambda tensors: [tensors[name].copy_(weights[name]) for name in tensors])

    ours, champions = (
        stages.evaluate(planted.storage, planted.config, planted.dataset, generator)
        for generator in (
            stages.candidate(planted.storage, planted.config, planted.dataset, training)[0],
            load("gate@champion", planted.storage),
        )
    )
    assert ours.metrics["frechet"] < champions.metrics["frechet"] / 2
    difference = frechet_difference_interval(
        ours.features.held_out, ours.features.generated, champions.features.generated
    )
    assert difference[2] < 0  # all that the gate asks for of a generator that copies nothing
    released = planted.release(training).release
    assert not released.promoted and "training images" in released.reason
    assert planted.champion() == 1
    checks = planted.checks(released.version)
    assert checks["smoke"] and checks["memorisation"] is False
    decision = release_of(planted.client, "gate", released.version)[1][0]
    assert decision["figures"]["memorised"] > 0.5 and decision["against"] == 1


@one_thread()
def _by_heart(spec, images: np.ndarray) -> dict[str, torch.Tensor]:
    """A generator's weights that make `images[label]`, uint8, whatever the latent."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_generator(spec)
        torch.nn.init.normal_(network.input.bias)
    network.input.weight.requires_grad_(False).zero_()
    wanted = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    optimizer = torch.optim.Adam([one for one in network.parameters() if one.requires_grad], lr=1e-2)
    labels, latents = torch.arange(len(images)), torch.zeros(len(images), spec.z_dim)
    for _ in range(400):
        loss = (network(latents, labels) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.state_dict()


def test_a_better_generator_takes_over_and_rollback_undoes_it(planted):
    # Darker than the first, and so nearer to digits on black.
    better = planted.train("gate-better", lambda tensors: tensors["output.bias"].sub_(2.0))
    released = planted.release(better)
    assert released.release.promoted, released.release.reason
    assert planted.champion() == released.release.version
    assert planted.release(better) == replace(released, reused=True, page=None)  # decided once
    assert rollback(planted.client, "gate").version == 1
    assert planted.champion() == 1
    since = planted.release(better)  # and not undone by the next night's run
    assert since.reused and since.release.alias is None and "version 1 is champion" in since.release.reason
    assert rollback(planted.client, "gate").version == released.release.version


def test_a_minimum_of_images_is_asked_for(planted):
    config = load_config("mnist", [*SETS, "name=gate", "evaluation.minimum_images=5000"])
    training = planted.train("gate-few", lambda tensors: tensors["output.bias"].add_(0.02))
    generator, _ = stages.candidate(planted.storage, config, planted.dataset, training)
    found = stages.evaluate(planted.storage, config, planted.dataset, generator)
    released = stages.release(planted.storage, config, planted.dataset, training, found).release
    assert not released.promoted and "minimum_images" in released.reason


def test_a_champion_that_can_not_be_measured_is_named_and_ends_no_release(planted, heard):
    assert stages._of_champion(planted.storage, planted.config, planted.dataset, "gate@99") is None
    (line,) = heard.notes
    assert line.startswith("gate@99 can not be measured: model gate has no version 99")
    generator, _ = stages.candidate(planted.storage, planted.config, planted.dataset, planted.train("gate-alone"))
    found = stages.evaluate(planted.storage, planted.config, planted.dataset, generator)
    assert stages._difference(found, None) is None  # which the gate refuses


def test_a_run_is_judged_anew_by_other_limits(planted):
    training = planted.train("gate-limited")
    refused = planted.release(training, "release.model=limited", "release.limits.frechet.most=1")
    assert not refused.release.promoted and "limit" in refused.release.reason
    again = planted.release(training, "release.model=limited")
    assert again.release.promoted and not again.reused and again.release.version == refused.release.version


def test_a_card_counts_the_images_of_the_classes_that_were_trained_on(planted):
    training = planted.train("gate-some")
    generator, _ = stages.candidate(planted.storage, planted.config, planted.dataset, training)
    config = load_config("mnist", [*SETS, "name=gate", 'data.only=["3", "7"]'])
    told = stages.Evaluation(None, None, None), generator, Release("gate", 1, None, "", False, "no")
    card = card_of(planted.storage, config, planted.dataset, training, *told)
    for split, count in card.samples.items():
        labels = DatasetReader(planted.storage, planted.dataset, split).read_all()[1]
        assert count == int(np.isin(labels, (3, 7)).sum()) > 0


def test_a_refusal_is_taken_again_when_the_champion_has_changed(planted):
    training = planted.train("gate-again", lambda tensors: tensors["output.bias"].add_(0.5))
    first = planted.release(training)
    assert planted.release(training) == replace(first, reused=True, page=None)
    rollback(planted.client, "gate")
    again = planted.release(training)
    assert not again.reused and f"version {planted.champion()}" in again.release.reason
    rollback(planted.client, "gate")


@pytest.mark.parametrize(
    ("spoil", "problem"), [(_not_a_number, "not_finite"), (_constant, "constant"), (lambda tensors: None, None)]
)
def test_too_few_held_out_images_do_not_let_these_through(planted, monkeypatch, spoil, problem):
    monkeypatch.setattr("pipeline.evaluation.real.MOST", 1)
    config = load_config("mnist", [*SETS, "name=gate", "evaluation.images=100"])  # not measured by another test
    training = planted.train(f"gate-unmeasured-{problem}", spoil)
    generator, _ = stages.candidate(planted.storage, config, planted.dataset, training)
    found = stages.evaluate(planted.storage, config, planted.dataset, generator)
    assert (found.report, found.problem) == (None, problem)


def test_a_run_can_start_from_a_release(planted):
    config = load_config("mnist", [*SETS, "name=gate", "training.init=gate@1"])
    plan = stages.plan(planted.storage, config, planted.dataset)
    plain = stages.plan(planted.storage, planted.config, planted.dataset)
    assert plan.init is not None and plan.run != plain.run
    first = stages.candidate(planted.storage, planted.config, planted.dataset, planted.train("gate-x"))[1]
    assert from_bytes(plan.init).keys() == from_bytes(first).keys()
    assert plan.init == to_bytes(from_bytes(first))
    assert stages.plan(planted.storage, config, planted.dataset) == plan  # remembered
    state = fresh_state(plan.spec, config.training, torch.device("cpu"))
    state.step = 1
    save_checkpoint(planted.storage, plan.run, state.snapshot(), config.training.batch)
    reused = {restart: describe_run(planted.storage, config, restart)[0]["reused"] for restart in (False, True)}
    assert (reused[False]["run"], reused[False]["from_image"]) == (plan.run, config.training.batch)
    assert (reused[True]["run"], reused[True]["from_image"]) == (None, 0)
    preflight.check_services(config, planted.storage)
    judged = load_config("mnist", [*SETS, "name=gate", "training.init=gate@1", "model.max_width=513"])
    preflight.check_services(judged, planted.storage)  # says it otherwise, and is the same generator
    assert stages.plan(planted.storage, judged, planted.dataset).init == plan.init
    other = load_config("mnist", [*SETS, "name=gate", "training.init=gate@1", "model.width=4"])
    with pytest.raises(UserError, match="another network"):
        stages.plan(planted.storage, other, planted.dataset)
    with pytest.raises(UserError, match="another network"):  # before any work, too
        preflight.check_services(other, planted.storage)


def test_the_command_lists_releases_and_rolls_one_back_in_seconds(planted):
    command = Ganline(planted.storage.local_path())
    command.env["GANLINE_STORAGE"] = str(planted.storage.local_path())
    listed = command("releases", "gate", "--json").json
    versions = [one["version"] for one in listed["releases"]]
    assert listed["model"] == "gate" and versions == sorted(versions, reverse=True) and versions[-1] == 1
    champion = planted.champion()
    promote_version(planted.client, "gate", 2)
    seconds: list[float] = []
    for now in (champion, 2):
        began = time.monotonic()
        assert command("rollback", "gate", "--json").json["version"] == now
        seconds.append(time.monotonic() - began)
        assert planted.champion() == now
    assert min(seconds) < within(5), seconds
    rollback(planted.client, "gate")
    first, *lines = command("releases", "gate", "--version", 2).out.splitlines()
    assert first.startswith("version 2, previous; ") and "; rolled back to version" in first
    assert [line.split(" ")[1] for line in lines if "Z " in line[:22]] == [
        *["rollback"] * (len(seconds) + 1), "promoted", "refused",
    ]  # fmt: skip
    assert any(line.startswith("  passed    seeds: ") for line in lines)
