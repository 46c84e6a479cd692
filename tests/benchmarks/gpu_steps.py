"""A training step on noise, without a dataset: how far bf16 is from float32, how fast it is, what memory it takes."""

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from ganmodels.networks import FAMILIES, rows_together
from ganmodels.randomness import generator as keyed
from ganmodels.spec import NetworkSpec, pyramid
from pipeline.config import Config, Training
from pipeline.recipe import load_config
from pipeline.shards.order import streams_of
from pipeline.training.precision import resolve_precision
from pipeline.training.state import TrainState, fresh_state
from pipeline.training.step import Step, make_step

STREAMS, SIDE, CHANNELS, CLASSES = 8, 16, 3, 3
KINDS = (*FAMILIES, "bigan")  # the last is a resnet with an encoder
TIMED_SECONDS = 10.0
T = TypeVar("T")


@dataclass(frozen=True)
class Timed:
    """Over whole cycles of lazy penalties. `peak_gib` is the allocator's, None where there is none."""

    images_per_second: float
    peak_gib: float | None
    batch: int
    accumulate: int
    precision: str


def small_spec(kind: str, **options: Any) -> NetworkSpec:
    """Networks of one of `KINDS` that take no time, on 16 x 16 images of three classes."""
    family = "resnet" if kind == "bigan" else kind
    options |= {"bigan": True} if kind == "bigan" else {}
    options |= {"w_dim": 8, "mapping_layers": 2, "group": 2} if family == "stylegan2" else {}
    return NetworkSpec(family, SIDE, CHANNELS, CLASSES, z_dim=8, width=8, max_width=16, **options)


def stepping(
    spec: NetworkSpec, training: Training, device: torch.device, *, rank: int = 0, world: int = 1,
    streams: int = STREAMS, bf16: bool = False, double: bool = False,
) -> tuple[TrainState, Step]:  # fmt: skip
    """What the seed begins with, and its step."""
    state = fresh_state(spec, training, device)
    if double:
        networks = (state.generator, state.discriminator, state.ema, state.encoder, state.encoder_ema)
        for network in filter(None, networks):
            network.double()
    own = streams_of(rank, world, streams)
    return state, make_step(state, training, spec=spec, streams=own, all_streams=streams, bf16=bf16)


def noise_images(
    spec: NetworkSpec, batch: int, *, rank: int = 0, world: int = 1, streams: int = STREAMS
) -> tuple[torch.Tensor, torch.Tensor]:
    """A rank's images and labels: each stream's from a key of its own."""
    rows, images, labels = batch // streams, [], []
    for stream in streams_of(rank, world, streams):
        draw, shape = keyed(0, "noise images", stream), (rows, spec.channels, spec.resolution, spec.resolution)
        images.append(torch.randint(256, shape, generator=draw, dtype=torch.uint8))
        labels.append(torch.randint(max(spec.classes, 1), (rows,), generator=draw))
    return torch.cat(images), torch.cat(labels)


def bf16_apart(device: torch.device) -> dict[str, float]:
    """By kind and loss's side: |bf16 - float32| of the second step's, by what the larger of 1 and float32's is."""
    apart, training = {}, Training(batch=2 * STREAMS, r1=1.0, penalty_every=1)
    for kind in KINDS:
        spec, found = small_spec(kind), []
        for bf16 in (False, True):
            _, step = stepping(spec, training, device, bf16=bf16)
            for _ in range(2):  # the second shows what became of the first's gradients
                figures, _ = step(*noise_images(spec, training.batch), False)
            found.append(figures)
        for side in ("loss_g", "loss_d"):
            full, half = found[0][side], found[1][side]
            apart[f"{kind} {side}"] = abs(half - full) / max(1.0, abs(full))
    return apart


def timed_step(preset: str, device: torch.device, *, rehearsal: bool) -> Timed:
    """A preset's step, the whole batch in one process, in as few parts as its memory takes."""
    config = _tiny(load_config(preset)) if rehearsal else load_config(preset)
    classes = 0 if config.data.labels == "none" or config.model.conditional is False else CLASSES
    spec = config.network_spec(config.data.channels or 3, classes)
    rows = config.training.batch // config.data.streams
    parts = [parts for parts in range(1, rows + 1) if rows % parts == 0 and rows // parts % rows_together(spec) == 0]
    begin = config.training.accumulate
    seconds = 0.0 if rehearsal else TIMED_SECONDS
    return in_fewest(
        [count for count in parts if count >= begin],
        lambda count: _timed(config, spec, device, accumulate=count, seconds=seconds),
    )


def in_fewest(parts: list[int], attempt: Callable[[int], T]) -> T:
    """What `attempt` gives for the first number of parts for which the memory is enough. Raises OutOfMemoryError."""
    for count in parts:
        try:
            return attempt(count)
        except torch.OutOfMemoryError:
            if count == parts[-1]:
                raise
        gc.collect()  # outside of `except`, whose error holds on to the tensors
        torch.cuda.empty_cache()
    raise ValueError("no number of parts to try")


def _timed(config: Config, spec: NetworkSpec, device: torch.device, *, accumulate: int, seconds: float) -> Timed:
    training = config.training.model_copy(update={"accumulate": accumulate})
    precision, streams = resolve_precision(training.precision), config.data.streams
    _, step = stepping(spec, training, device, streams=streams, bf16=precision == "bf16")
    images, labels = noise_images(spec, training.batch, streams=streams)

    def cycle() -> None:
        for _ in range(training.penalty_every):
            step(images, labels, False)  # it ends with figures on the CPU, so nothing is still under way

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    cycle()
    begun, steps = time.perf_counter(), 0
    while not steps or time.perf_counter() - begun < seconds:
        cycle()
        steps += training.penalty_every
    taken = time.perf_counter() - begun
    peak = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None
    return Timed(steps * training.batch / taken, peak, training.batch, accumulate, precision)


def _tiny(config: Config) -> Config:
    """The same way through the same code, in as little time as there can be."""
    values = config.model_dump(mode="json")
    model, training = values["model"], values["training"]
    together = config.model.group if config.model.family == "stylegan2" else 1
    levels = len(pyramid(NetworkSpec("", values["data"]["resolution"], 1)))
    model |= {"z_dim": 4, "width": 2, "max_width": 4, "cardinality": []}
    model["widths"] = [4] * levels if model["widths"] else []
    if config.model.family == "stylegan2":
        model |= {"w_dim": 4, "mapping_layers": 1}
    values["data"]["streams"] = 2
    training |= {"batch": 2 * together, "accumulate": 1, "penalty_every": min(training["penalty_every"], 2)}
    return Config.model_validate(values)
