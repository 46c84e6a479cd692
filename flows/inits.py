"""What `training.init` named when a run began: the run itself may move the alias, and stays the same run."""

from typing import Any

from ganmodels.spec import NetworkSpec
from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.registry.server import tracking_uri
from pipeline.results import recall, remember
from pipeline.shards.manifest import DatasetRef
from pipeline.storage import Storage, sha256


def kept_init(storage: Storage, config: Config, dataset: DatasetRef) -> bytes | None:
    """Safetensors; None if no run has begun that way, or they are gone or damaged."""
    kept = recall(storage, "init", _inputs(storage, config, dataset))
    try:
        weights = storage.read(_path(kept["sha256"])) if kept else None
    except FileNotFoundError:
        return None
    return weights if weights and kept and sha256(weights) == kept["sha256"] else None


def keep_init(storage: Storage, config: Config, dataset: DatasetRef, weights: bytes) -> None:
    storage.write(_path(sha256(weights)), weights)
    remember(storage, "init", _inputs(storage, config, dataset), {"sha256": sha256(weights)})


def check_same_generator(config: Config, given: NetworkSpec, wanted: NetworkSpec) -> None:
    """Raises UserError for another one. A discriminator and an encoder begin anew, and may be any."""
    if given.of_generator() != wanted.of_generator():
        raise UserError(
            f"training.init {config.training.init} is another network ({given}) than the"
            f" recipe's ({wanted}); make model.* and data.* fit, or leave it out"
        )


def _inputs(storage: Storage, config: Config, dataset: DatasetRef) -> dict[str, Any]:
    return {
        "init": config.training.init, "dataset": dataset.digest, "recipe": config.run_name(dataset.digest, ""),
        "tracking": sha256(tracking_uri(storage).encode()),
    }  # fmt: skip


def _path(digest: str) -> str:
    return f"inits/{digest}.safetensors"
