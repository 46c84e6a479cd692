"""Everything that changes while a run trains, and its form in storage."""

import copy
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

from ganmodels.ada.strength import Strength
from ganmodels.networks import build_discriminator, build_encoder, build_generator
from ganmodels.randomness import keyed_seed
from ganmodels.saving import from_bytes, load_into, to_bytes
from ganmodels.spec import NetworkSpec
from pipeline.config import Training
from pipeline.training.health import Health
from pipeline.training.plateau import Best

ENCODER_EMA = "encoder_ema.safetensors"
Tensors = dict[str, torch.Tensor]
_ADAM_SLOTS = ("step", "exp_avg", "exp_avg_sq")


@dataclass
class Meter:
    """Sums of what is measured since the last telemetry point; saved too, so a resumed run logs the same."""

    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0) + 1

    def take(self) -> dict[str, float]:
        """The means, and a fresh start."""
        means = {name: self.sums[name] / self.counts[name] for name in self.sums}
        self.clear()
        return means

    def clear(self) -> None:
        self.sums, self.counts = {}, {}


@dataclass
class TrainState:
    """Generator, discriminator, the generator's average, both optimizers, the step, ADA's strength, the run's health,
    the best that was measured.

    With `bigan` also an encoder, with its average. The generator's optimizer has it in a group of its own.
    """

    generator: nn.Module
    discriminator: nn.Module
    ema: nn.Module
    optimizer_g: torch.optim.Adam
    optimizer_d: torch.optim.Adam
    step: int = 0
    meter: Meter = field(default_factory=Meter)
    strength: Strength = field(default_factory=Strength)
    health: Health = field(default_factory=Health)
    best: Best = field(default_factory=Best)
    encoder: nn.Module | None = None
    encoder_ema: nn.Module | None = None

    def tensors(self) -> dict[str, Tensors]:
        """Those of each file, as they are now: the next step changes them."""
        files = {
            "generator.safetensors": self.generator.state_dict(),
            "discriminator.safetensors": self.discriminator.state_dict(),
            "ema.safetensors": self.ema.state_dict(),
            "optimizer_g.safetensors": _adam_tensors(self.optimizer_g, self.generator),
            "optimizer_d.safetensors": _adam_tensors(self.optimizer_d, self.discriminator),
        }
        if self.encoder is not None and self.encoder_ema is not None:
            files["encoder.safetensors"] = self.encoder.state_dict()
            files[ENCODER_EMA] = self.encoder_ema.state_dict()
            files["optimizer_e.safetensors"] = _adam_tensors(self.optimizer_g, self.encoder)
        return files

    def snapshot(self) -> "Snapshot":
        """The state as it is now, to be written while training goes on.

        The copies lie in order, so that the thread that writes them has nothing to compute: torch would give it threads
        of its own for that, and with more than there are cores OpenMP's no longer wait for each other awake, for good.
        """
        copies = {
            file: {name: _copied(tensor) for name, tensor in tensors.items()}
            for file, tensors in self.tensors().items()
        }
        return Snapshot(self.step, copies, self.to_json())

    def to_json(self) -> dict[str, Any]:
        meter = {"sums": self.meter.sums, "counts": self.meter.counts}
        own = {name: asdict(getattr(self, name)) for name in ("strength", "health", "best")}
        return copy.deepcopy({"step": self.step, "meter": meter, **own})

    def load(self, files: dict[str, bytes], values: dict[str, Any]) -> None:
        """The inverse of a snapshot's `to_files` and `values`; raises ValueError where the networks differ."""
        load_into(self.generator, from_bytes(files["generator.safetensors"]))
        load_into(self.discriminator, from_bytes(files["discriminator.safetensors"]))
        load_into(self.ema, from_bytes(files["ema.safetensors"]))
        _load_adam(self.optimizer_g, self.generator, from_bytes(files["optimizer_g.safetensors"]))
        _load_adam(self.optimizer_d, self.discriminator, from_bytes(files["optimizer_d.safetensors"]))
        if self.encoder is not None and self.encoder_ema is not None:
            load_into(self.encoder, from_bytes(files["encoder.safetensors"]))
            load_into(self.encoder_ema, from_bytes(files[ENCODER_EMA]))
            _load_adam(self.optimizer_g, self.encoder, from_bytes(files["optimizer_e.safetensors"]))
        self.step, self.meter = values["step"], Meter(**values["meter"])
        self.strength = Strength(**values.get("strength", {}))  # earlier checkpoints have none of these
        self.health = Health(**values.get("health", {}))
        self.best = Best(**values.get("best", {}))


@dataclass(frozen=True)
class Snapshot:
    """A state as it was after a step."""

    step: int
    tensors: dict[str, Tensors]
    values: dict[str, Any]

    def to_files(self) -> dict[str, bytes]:
        """Safetensors by file name; equal states give equal bytes."""
        return {file: to_bytes(tensors) for file, tensors in self.tensors.items()}


def fresh_state(spec: NetworkSpec, training: Training, device: torch.device) -> TrainState:
    """Networks as the seed makes them, the same on every rank."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(keyed_seed(training.seed, "init"))
        generator, discriminator = build_generator(spec), build_discriminator(spec)
        encoder = build_encoder(spec) if spec.bigan else None
    for network in filter(None, (generator, discriminator, encoder)):
        network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    ema = copy.deepcopy(generator).eval().requires_grad_(False)

    # Each step sets their rate and betas.
    optimizer_g, optimizer_d = (torch.optim.Adam(n.parameters(), fused=True) for n in (generator, discriminator))
    state = TrainState(generator, discriminator, ema, optimizer_g, optimizer_d)
    if encoder is not None:
        optimizer_g.add_param_group({"params": list(encoder.parameters())})
        state.encoder, state.encoder_ema = encoder, copy.deepcopy(encoder).eval().requires_grad_(False)
    return state


def _copied(tensor: torch.Tensor) -> torch.Tensor:
    """In this process's memory, in the order of its shape."""
    return torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor.detach())


def _adam_tensors(optimizer: torch.optim.Adam, network: nn.Module) -> Tensors:
    return {
        f"{slot}:{name}": optimizer.state[parameter][slot]
        for name, parameter in network.named_parameters()
        for slot in _ADAM_SLOTS
        if parameter in optimizer.state
    }


def _load_adam(optimizer: torch.optim.Adam, network: nn.Module, tensors: Tensors) -> None:
    for name, parameter in network.named_parameters():
        optimizer.state.pop(parameter, None)
        if f"step:{name}" not in tensors:
            continue  # saved before the first step
        slots = {}
        for slot in _ADAM_SLOTS:
            saved = tensors[f"{slot}:{name}"]
            # Like its parameter in memory layout and device, as the optimizer itself would have made it.
            like = torch.empty_like(parameter) if slot != "step" else torch.empty_like(saved)
            if slot == "step" and parameter.is_cuda:
                like = like.to(parameter.device)
            slots[slot] = like.detach().copy_(saved)
        optimizer.state[parameter] = slots
