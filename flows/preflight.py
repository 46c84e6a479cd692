"""Checks before any long work: what can be known to fail fails now, in one line, with nothing written."""

import os
from contextlib import suppress

from flows import services
from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.ingest.image import InvalidImage, decode, rules_of
from pipeline.ingest.source import open_source
from pipeline.shards.manifest import DatasetRef, latest_version
from pipeline.storage import Storage

_TRIED = 1000  # files, until one is an image


def check_source(config: Config, *, for_training: bool) -> None:
    """Raises UserError for a source that is missing, empty or without an image, or too small to train on."""
    data = config.data
    source = open_source(data.source, data.labels, data.image_column)
    count, classes, first = 0, set(), []
    for item in source.items():
        count += 1
        if item.label is not None:
            classes.add(item.label)
        if count <= _TRIED:
            first.append(item.path)
    if for_training:
        to_train_on = int(count * (1 - data.held_out))
        if to_train_on < config.training.batch:
            raise UserError(
                f"{data.source} has {count} files, {to_train_on} of them to train on, which do not fill one"
                f" batch of {config.training.batch}; add images or lower training.batch"
            )
        config.network_spec(data.channels or 3, len(classes))
    rules = rules_of(data)
    reasons: dict[str, None] = {}
    for path, found in zip(first, source.read(first), strict=True):
        try:
            if isinstance(found, InvalidImage):
                raise found
            decode(found, rules, path)
            return
        except InvalidImage as why:
            reasons[why.reason] = None
    if count <= _TRIED:
        raise UserError(f"{data.source} holds no valid image ({', '.join(reasons)}); check what the files are")


def check_dataset(config: Config, storage: Storage) -> DatasetRef:
    """The latest version; raises UserError if there is none, or none that the recipe can train on."""
    from pipeline.training.plan import plan_run

    dataset = latest_version(storage, config.name)
    if dataset is None:
        raise UserError(
            f"there is no dataset {config.name} in {storage.name};"
            f" make it: ganline shard {config.data.source} --name {config.name}"
        )
    plan_run(storage, config, dataset)
    return dataset


def check_services(config: Config, storage: Storage, restart: bool = False) -> None:
    """Raises UserError for a server that the environment names and that does not answer, and for workers or a
    compiler that are not there."""
    cores = os.cpu_count() or 1
    if not os.environ.get("RAY_ADDRESS") and (config.cluster.workers or 1) > max(cores, _gpus()):
        raise UserError(
            f"cluster.workers is {config.cluster.workers} but this machine has {cores} cores;"
            " ask for fewer, or set RAY_ADDRESS to a cluster"
        )
    if config.training.compile:
        from pipeline.training.compiler import check_compiler

        check_compiler()
    for look in (services.ray, services.prefect):
        try:
            look()
        except services.Amiss as amiss:
            raise UserError(f"{amiss.detail}; {amiss.remedy}") from None
    from pipeline.registry.server import NoRegistry, client

    with suppress(NoRegistry):  # the run makes one
        client(storage, create=False)
    if config.training.init:
        _check_init(config, storage, restart)


def _check_init(config: Config, storage: Storage, restart: bool) -> None:
    """Unless the run has begun and goes on: then its weights are kept, whatever the alias names by now."""
    from flows.inits import check_same_generator, kept_init
    from pipeline.registry.lookup import load

    assert config.training.init
    dataset = latest_version(storage, config.name)
    if dataset and not restart and kept_init(storage, config, dataset):
        return
    given = load(config.training.init, storage).spec
    # Of the classes it is known after sharding alone which have an image.
    wanted = config.network_spec(config.data.channels or 3, given.classes or int(bool(config.model.conditional)))
    check_same_generator(config, given, wanted)


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()
