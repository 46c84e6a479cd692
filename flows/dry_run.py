"""What `ganline run` would do, found out without doing it."""

from typing import Any

import torch
import yaml

from flows.inits import kept_init
from ganmodels.networks import build_discriminator, build_encoder, build_generator
from pipeline.config import Config
from pipeline.ingest.source import open_source
from pipeline.shards.manifest import DatasetRef
from pipeline.shards.preview import unread
from pipeline.storage import Storage
from pipeline.training.checkpoint import CheckpointRef, newest_checkpoint
from pipeline.training.fork import lineage, origin_of
from pipeline.training.plan import plan_run


def describe_run(
    storage: Storage, config: Config, restart: bool, fork: str | None = None
) -> tuple[dict[str, Any], list[str]]:
    """The plan as values and as lines, for a recipe that has passed the preflight. Writes nothing, starts nothing."""
    data = config.data
    found = unread(storage, config.name, data, open_source(data.source, data.labels, data.image_column))
    unchanged = found.dataset if not found.to_read else None
    assert config.data.channels is not None
    spec = config.network_spec(config.data.channels, found.classes)
    with torch.device("meta"):
        sizes = {
            "generator": _parameters(build_generator(spec)),
            "discriminator": _parameters(build_discriminator(spec)),
        }
        if spec.bigan:
            sizes["encoder"] = _parameters(build_encoder(spec))
    values: dict[str, Any] = {
        "config": config.model_dump(mode="json"),
        "source": {"images": found.files, "classes": found.classes, "to_read": found.to_read},
        "parameters": sizes,
        "steps": -(-config.training.images // config.training.batch),
        "reused": {"dataset": unchanged.digest if unchanged else None},
        "forked_from": None,
    }
    origin = origin_of(storage, config, unchanged, fork, restart)[0] if fork else None
    if origin:
        values["forked_from"] = {**lineage(origin), "images": origin.images}
    values["reused"] |= _run(storage, config, unchanged, restart, origin)
    reused = values["reused"]
    networks = ", ".join(f"{name} {count:,}" for name, count in sizes.items())
    lines = [
        yaml.safe_dump(values["config"], sort_keys=False).rstrip(),
        f"source    {found.files:,} files, {found.classes} classes; {found.to_read:,} to read and shard",
        f"networks  {networks} parameters",
        f"training  {values['steps']:,} steps of {config.training.batch}",
        f"reused    dataset {(reused['dataset'] or 'none')[:12]}, run {reused['run'] or 'none'},"
        f" from image {reused['from_image']:,}",
    ]
    if origin:
        lines.append(f"forks     {origin.run} at step {origin.step:,}, image {origin.images:,}")
    return values, lines


def _run(
    storage: Storage, config: Config, dataset: DatasetRef | None, restart: bool, fork: CheckpointRef | None
) -> dict[str, Any]:
    none = {"run": None, "from_image": fork.images if fork else 0}
    if dataset is None or restart:
        return none
    init = kept_init(storage, config, dataset) if config.training.init else None
    if config.training.init and init is None:
        return none
    planned = plan_run(storage, config, dataset, init, fork)
    checkpoint = newest_checkpoint(storage, planned.run)
    return {"run": planned.run, "from_image": checkpoint.images} if checkpoint else none


def _parameters(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
