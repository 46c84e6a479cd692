"""From what a user names, a run or a release, to what the stages take."""

from dataclasses import dataclass

from flows.stages import Training
from ganmodels.spec import NetworkSpec
from pipeline.config import Config, parse_config
from pipeline.digest import canonical_json
from pipeline.errors import UserError
from pipeline.registry.generator import Generator, generator_from_files
from pipeline.registry.lookup import load
from pipeline.registry.server import client, tracking_uri
from pipeline.results import recall
from pipeline.shards.manifest import DatasetRef
from pipeline.storage import Storage, sha256
from pipeline.training.checkpoint import CheckpointRef, newest_checkpoint, read_files
from pipeline.training.run import description


@dataclass(frozen=True)
class Subject:
    """A generator with the recipe and the dataset that it was trained on."""

    config: Config
    dataset: DatasetRef
    generator: Generator


def find_generator(storage: Storage, reference: str) -> Subject:
    """Of a run's newest checkpoint, or of a release. Raises UserError for what does not exist."""
    if "@" not in reference and storage.exists(f"runs/{reference}/run.json"):
        config, dataset, told = _described(storage, reference)
        checkpoint = newest_checkpoint(storage, reference)
        if checkpoint is None:
            raise UserError(f"run {reference} has no checkpoint yet; let it train on")
        spec = NetworkSpec.from_dict(told["spec"])
        document = canonical_json({"spec": spec.to_dict(), "classes": told["classes"] if spec.classes else []})
        weights = read_files(storage, checkpoint)["ema.safetensors"]
        return Subject(config, dataset, generator_from_files(weights, document))
    generator = load(reference, storage)
    assert generator.found is not None
    tags = client(storage).get_model_version(generator.found.model, str(generator.found.version)).tags
    config, dataset, _ = _described(storage, tags.get("ganline.run", "that Ganline knows"))
    return Subject(config, dataset, generator)


def finished_run(storage: Storage, run: str) -> tuple[Config, DatasetRef, Training]:
    """Raises UserError for a run that does not exist or is not finished."""
    config, dataset, _ = _described(storage, run)
    checkpoint = newest_checkpoint(storage, run)
    tracking = sha256(tracking_uri(storage).encode())
    steps = checkpoint.step if checkpoint else 0
    result = recall(storage, "train", {"run": run, "steps": steps, "tracking": tracking})
    if result is None:
        raise UserError(f"run {run} is not finished; start `ganline train` with its recipe again")
    return config, dataset, Training(**{**result, "checkpoint": CheckpointRef(**result["checkpoint"])})


def _described(storage: Storage, run: str) -> tuple[Config, DatasetRef, dict]:
    told = description(storage, run)
    return parse_config(told["config"], f"run {run}"), DatasetRef(**told["dataset"]), told
