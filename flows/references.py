"""From what a user names, a run or a release, to what the stages take."""

from dataclasses import dataclass

from flows.stages import Training, averaged_generator, finished
from ganmodels.spec import NetworkSpec
from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.recipe import parse_config
from pipeline.registry.generator import Generator
from pipeline.registry.lookup import load
from pipeline.registry.server import client
from pipeline.shards.manifest import DatasetRef
from pipeline.storage import Storage
from pipeline.training.checkpoint import newest_checkpoint
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
        return Subject(config, dataset, averaged_generator(storage, checkpoint, spec, told["classes"])[0])
    generator = load(reference, storage)
    assert generator.found is not None
    tags = client(storage).get_model_version(generator.found.model, str(generator.found.version)).tags
    config, dataset, _ = _described(storage, tags.get("ganline.run", "that Ganline knows"))
    return Subject(config, dataset, generator)


def finished_run(storage: Storage, run: str) -> tuple[Config, DatasetRef, Training]:
    """Raises UserError for a run that does not exist or is not finished."""
    config, dataset, _ = _described(storage, run)
    checkpoint = newest_checkpoint(storage, run)
    training = finished(storage, run, checkpoint.step) if checkpoint else None
    if training is None:
        raise UserError(f"run {run} is not finished; start `ganline train` with its recipe again")
    return config, dataset, training


def _described(storage: Storage, run: str) -> tuple[Config, DatasetRef, dict]:
    told = description(storage, run)
    return parse_config(told["config"], f"run {run}"), DatasetRef(**told["dataset"]), told
