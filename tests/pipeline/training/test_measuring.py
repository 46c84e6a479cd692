"""Measured as it trains: the same figures on any number of ranks, and the same training as without them."""

import logging
import math
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ganmodels.randomness import generator as keyed
from pipeline.config import Config, Evaluation
from pipeline.evaluation import real
from pipeline.evaluation.evaluate import evaluate
from pipeline.evaluation.features import EfficientNetLite0
from pipeline.registry.generator import Generator
from pipeline.shards import on_ray
from pipeline.shards.manifest import DatasetRef
from pipeline.shards.order import streams_of
from pipeline.shards.read import DatasetReader
from pipeline.storage import Storage
from pipeline.training.measuring import SEED, Measurement
from pipeline.training.plan import RunPlan, plan_run
from pipeline.training.state import TrainState, fresh_state
from pipeline.training.step import make_step

IMAGES = 200  # four batches, of which three ranks have 1, 1 and 2
CPU = torch.device("cpu")

pytestmark = pytest.mark.usefixtures("one_thread")


class Counting(EfficientNetLite0):
    """With `fails`, storage or whatever lies under it can not be read so many times."""

    def __init__(self, fails: int = 0):
        super().__init__(64, 1)
        self.images, self.fails = 0, fails

    def __call__(self, images: np.ndarray, on_batch: Callable[[int], None] = lambda count: None) -> np.ndarray:
        self.fails -= 1
        if self.fails >= 0:
            raise OSError("the disk is gone")
        self.images += len(images)
        return super().__call__(images, on_batch)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[str]]:
    """Root and name of 300 images of two classes, one twice the other; half of them held out."""
    folder = tmp_path_factory.mktemp("measuring")
    rng = np.random.default_rng(0)
    for label, count in (("dark", 100), ("light", 200)):
        (folder / "images" / label).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 128, (16, 16), dtype=np.uint8) + (128 if label == "light" else 0)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / "images" / label / f"{i}.png")
    storage = Storage(str(folder / "root"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(on_ray, "cluster", nullcontext)
        patch.setattr(on_ray, "run_tasks", lambda function, shared, each: (function(shared, one) for one in each))
        made = on_ray.shard_images(storage, "t", recipe(source=str(folder / "images")).data).dataset
    return storage.uri, [made.name, made.digest]


@pytest.fixture
def fresh(dataset) -> tuple[str, list[str]]:
    """With nothing stored of its features."""
    Storage(dataset[0]).delete_folder("evaluations")
    return dataset


def recipe(**data: Any) -> Config:
    values = {"source": "x", "resolution": 16, "channels": 1, "held_out": 0.5, "shard_images": 40, **data}
    training = {"images": 4096, "batch": 16, "precision": "fp32", "evaluate_images": IMAGES}
    return Config.model_validate({"name": "t", "data": values, "model": {"width": 4, "z_dim": 8}, "training": training})


def planned(root: str, name: list[str], **data: Any) -> tuple[Storage, Config, RunPlan]:
    storage, config = Storage(root), recipe(**data)
    return storage, config, plan_run(storage, config, DatasetRef(*name))


def fresh_run(config: Config, plan: RunPlan) -> TrainState:
    """With weights under which images and classes differ."""
    state = fresh_state(plan.spec, config.training, CPU)
    for index, (name, weight) in enumerate(state.ema.named_parameters()):
        if weight.ndim > 1 and "norm" not in name:
            weight.data = 0.2 * torch.randn(weight.shape, generator=keyed(0, "weight", index))
        elif "shift" in name:
            weight.data = torch.randn(weight.shape, generator=keyed(0, "weight", index))
    return state


def on_a_rank(rank: int, world: int, root: str, name: list[str], only: list[str]) -> tuple[dict, dict, int]:
    storage, config, plan = planned(root, name, only=only)
    extractor = Counting()
    measure = Measurement(storage, config, plan, threads=1, extractor=extractor)
    return measure(fresh_run(config, plan).ema), measure.names, extractor.images


def real_files(root: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(root, "evaluations", "real").iterdir()}


@pytest.mark.parametrize(("only", "worlds"), [([], (1, 2, 3)), (["light"], (3,))], ids=["all", "only"])
def test_any_number_of_ranks_measures_what_an_evaluation_does_bit_for_bit(fresh, ranks, only, worlds):
    root, name = fresh
    storage, config, plan = planned(root, name, only=only)
    generator = Generator(fresh_run(config, plan).ema, plan.spec, tuple(plan.classes) if plan.spec.classes else ())
    report, _ = evaluate(
        storage, plan.dataset, generator, images=IMAGES, seeds=(SEED,), extractor=Counting(), only=tuple(only)
    )
    expected = {key: report.metrics[key] for key in ("frechet", "kernel")}
    assert math.isfinite(expected["frechet"]) and expected["frechet"] > 1
    full = {figure.key: figure.name for figure in report.figures}
    theirs = real_files(root)
    for world in worlds:
        storage.delete_folder("evaluations")
        answers = ranks.run(world, on_a_rank, root, name, only)
        for figures, names, _ in answers:
            assert figures == expected
            assert names == {key: full[key] for key in expected}
        assert sum(images for *_, images in answers) == IMAGES + report.held_out
        assert real_files(root).items() <= theirs.items()
    again = ranks.run(2, on_a_rank, root, name, only)
    assert [figures for figures, *_ in again] == [expected] * 2
    assert sum(images for *_, images in again) == IMAGES  # the real side was there


def training_on_a_rank(
    rank: int, world: int, root: str, name: list[str], measured: bool
) -> tuple[dict[str, np.ndarray], list[dict]]:
    """The weights after some steps, between which torch is looked at."""
    torch.set_num_threads(2)
    storage, config, plan = planned(root, name)
    state = fresh_run(config, plan)
    streams = streams_of(rank, world, 8)
    step = make_step(state, config.training, spec=plan.spec, streams=streams, all_streams=8, bf16=False)
    measure = Measurement(storage, config, plan, threads=1)
    figures = []
    for index in range(4):
        draw = keyed(index, rank, world)
        step(
            torch.randint(256, (2 * len(streams), 1, 16, 16), generator=draw, dtype=torch.uint8),
            torch.randint(2, (2 * len(streams),), generator=draw), False,
        )  # fmt: skip
        if measured and index % 2:
            before = looked_at(state)
            figures.append(measure(state.ema))
            after = looked_at(state)
            assert before.keys() == after.keys()
            assert [key for key in before if before[key] != after[key]] == []
    torch.set_num_threads(1)
    weights = {**state.generator.state_dict(), **{f"ema.{k}": v for k, v in state.ema.state_dict().items()}}
    return {key: value.numpy().copy() for key, value in weights.items()}, figures


def looked_at(state: TrainState) -> dict[str, Any]:
    networks: dict[str, nn.Module] = {"g": state.generator, "d": state.discriminator, "ema": state.ema}
    return {
        "rng": torch.random.get_rng_state().tolist(), "threads": torch.get_num_threads(),
        "gradients": torch.is_grad_enabled(), "inference": torch.is_inference_mode_enabled(),
        "modes": [(name, part.training) for name, network in networks.items() for part in network.modules()],
        "hooks": [len(part._forward_hooks) for network in networks.values() for part in network.modules()],
        "types": [weight.dtype for network in networks.values() for weight in network.parameters()],
    }  # fmt: skip


@pytest.mark.parametrize("world", [1, 2])
def test_training_is_the_same_bits_with_and_without_and_torch_is_left_as_it_was(fresh, ranks, world):
    plain = ranks.run(world, training_on_a_rank, *fresh, False)
    measured = ranks.run(world, training_on_a_rank, *fresh, True)
    assert all(figures == measured[0][1] and len(figures) == 2 for _, figures in measured)
    assert measured[0][1][0] != measured[0][1][1]
    for (weights, _), (others, _) in zip(plain, measured, strict=True):
        for name, value in weights.items():
            np.testing.assert_array_equal(others[name], value, err_msg=name)


def with_a_failure(
    rank: int, world: int, root: str, name: list[str], failing: int, poison: str
) -> tuple[list[dict], list[str]]:
    """Figures of three calls, the first of which meets a failure on one rank; and this rank's warnings."""
    storage, config, plan = planned(root, name)
    measure = Measurement(storage, config, plan, threads=1, extractor=Counting(int(rank == failing)))
    ema = fresh_run(config, plan).ema
    weight = next(ema.parameters())
    whole, warnings = weight.data.clone(), Warnings()
    logging.getLogger("pipeline").addHandler(warnings)
    if poison:
        weight.data[0, 0] = float(poison)
    figures = [measure(ema)]
    weight.data = whole
    figures += [measure(ema), measure(ema)]
    logging.getLogger("pipeline").removeHandler(warnings)
    return figures, warnings.lines


class Warnings(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@pytest.mark.parametrize(
    ("failing", "poison", "why"),
    [(0, "", "the disk is gone"), (1, "", "the disk is gone"), (-1, "nan", "holds NaN"), (-1, "inf", "infinity")],
)
def test_what_can_not_be_measured_now_costs_a_figure_on_every_rank_and_one_warning(fresh, ranks, failing, poison, why):
    answers = ranks.run(2, with_a_failure, *fresh, failing, poison)
    first, *others = answers[0][0]
    assert first == {}
    assert others[0] == others[1] and others[0].keys() == {"frechet", "kernel"}
    assert all(figures == answers[0][0] for figures, _ in answers)
    warnings = [line for _, lines in answers for line in lines]
    assert len(warnings) == 1 and why in warnings[0]
    assert len(answers[max(failing, 0)][1]) == 1


def test_too_few_held_out_images_are_told_of_once(dataset, caplog, monkeypatch):
    monkeypatch.setattr("pipeline.evaluation.real.MOST", 3)
    storage, config, plan = planned(*dataset)
    measure = Measurement(storage, config, plan, threads=1)
    ema = fresh_run(config, plan).ema
    with caplog.at_level(logging.WARNING):
        assert [measure(ema), measure(ema)] == [{}, {}]
    assert len(caplog.records) == 1 and "too few to measure against" in caplog.text


def test_every_image_is_reported_as_it_is_done(fresh):
    storage, config, plan = planned(*fresh)
    for _ in range(2):  # computed, then from the storage root
        told: list[int] = []
        measure = Measurement(storage, config, plan, threads=2, on_batch=told.append)
        measure(fresh_run(config, plan).ema)
        held_out = int(measure.names["frechet"].partition(" held out")[0].rpartition(" ")[2])
        assert sum(told) == IMAGES + held_out


def test_a_real_side_that_can_not_be_stored_is_used_all_the_same(fresh, caplog, largest_file):
    storage, config, plan = planned(*fresh)
    with caplog.at_level(logging.WARNING), largest_file(1000):
        figures = Measurement(storage, config, plan, threads=1)(fresh_run(config, plan).ema)
    assert "cannot store" in caplog.text
    assert not list(storage.list("evaluations/real"))
    assert figures == Measurement(storage, config, plan, threads=1)(fresh_run(config, plan).ema) != {}


def test_the_generator_is_left_as_it_was_whatever_it_is(fresh):
    storage, config, plan = planned(*fresh)
    ema = fresh_run(config, plan).ema.double().train()
    before = {name: value.clone() for name, value in ema.state_dict().items()}
    assert Measurement(storage, config, plan, threads=1)(ema)
    assert all(part.training for part in ema.modules())
    for name, value in ema.state_dict().items():
        assert value.dtype == before[name].dtype and value.equal(before[name])


def test_where_enough_are_held_out_a_checkpoint_is_chosen_by_others_than_it_is_judged_by(fresh, monkeypatch):
    storage, config, plan = planned(*fresh)
    ema = fresh_run(config, plan).ema
    held_out = sum(DatasetReader(storage, plan.dataset, "held_out").counts)
    monkeypatch.setattr(real, "MOST", held_out - 40)
    for enough, after in ((41, 0), (40, held_out - 40)):
        storage.delete_folder("evaluations")
        monkeypatch.setattr(real, "ENOUGH_TO_CHOOSE", enough)
        measure = Measurement(storage, config, plan, threads=1, extractor=Counting())
        assert measure(ema).keys() == {"frechet", "kernel"}
        generator = Generator(ema, plan.spec, tuple(plan.classes))
        _, judged = evaluate(storage, plan.dataset, generator, images=IMAGES, extractor=Counting())
        assert len(judged.held_out) == held_out - 40
        wanted = real.Wanted(plan.dataset, "held_out", 40 if after else held_out - 40, Counting().name, (), after)
        chosen_by = real.stored(storage, wanted).features
        common = {row.tobytes() for row in chosen_by} & {row.tobytes() for row in judged.held_out}
        assert len(common) == (0 if after else len(chosen_by))
        assert all(("images that judge no release" in name) == bool(after) for name in measure.names.values())


def test_no_evaluation_can_have_the_measuring_seed():
    with pytest.raises(ValueError, match="seeds"):
        Evaluation(seeds=(SEED, 0))
