"""Checks before any long work: what can be known to fail fails now, in one line, with nothing written."""

import os

from flows import services
from pipeline.config import OWN_CLASSIFIER, PACKAGED_FEATURES, Config
from pipeline.errors import Unavailable, UserError
from pipeline.evaluation.teachable import check_teachable
from pipeline.ingest.image import InvalidImage, decode, rules_of
from pipeline.ingest.source import open_source
from pipeline.shards.manifest import DatasetRef, latest_version
from pipeline.storage import Storage

_TRIED = 1000  # files, until one is an image


def check_run(config: Config, storage: Storage, restart: bool, fork: str | None, *, keep: bool = True) -> None:
    """All that the whole way asks for; `keep` as `check_features` has it."""
    check_source(config, for_training=True)
    check_services(config, storage, restart, fork)
    if fork:
        check_fork(config, storage, fork, restart)
    check_features(config, storage, keep=keep)  # last: it may write


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
        check_teachable(config, classes)
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


def check_services(config: Config, storage: Storage, restart: bool = False, fork: str | None = None) -> None:
    """Raises UserError for a server that the environment names and that does not answer, and for workers or a
    compiler that are not there."""
    cores = os.cpu_count() or 1
    if not os.environ.get("RAY_ADDRESS") and config.cluster.most > max(cores, _gpus()):
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

    try:
        client(storage, create=False)
    except NoRegistry:
        pass  # the run makes one
    except Unavailable:
        if restart or not _has_begun(config, storage, fork):
            raise
    if config.training.init:
        _check_init(config, storage, restart)


def _has_begun(config: Config, storage: Storage, fork: str | None) -> bool:
    """Whether the recipe is that of a run which exists already: its next start can do without MLflow."""
    from flows import stages
    from pipeline.training.run import has_begun

    dataset = latest_version(storage, config.name)
    return dataset is not None and has_begun(storage, stages.plan(storage, config, dataset, fork=fork).run)


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


def check_features(config: Config, storage: Storage, *, keep: bool) -> None:
    """Raises UserError for features that are not there or are none: they are needed once all is trained.

    Where they are sound and `keep` is set, their file stays in the cache, and evaluation finds it there.
    """
    if config.evaluation.features not in (PACKAGED_FEATURES, OWN_CLASSIFIER):
        from pipeline.evaluation.chosen import module_features

        module_features(storage, config.evaluation).load(keep=keep)


def check_fork(config: Config, storage: Storage, named: str, restart: bool = False) -> None:
    """Raises UserError for a checkpoint that is not there, or that this recipe can not go on from."""
    from pipeline.training.fork import check_goes_on, check_no_init, check_same_networks, origin_of
    from pipeline.training.run import description

    check_no_init(config)
    origin, begun = origin_of(storage, config, latest_version(storage, config.name), named, restart)
    check_goes_on(config, origin)
    if not begun:
        classes = description(storage, origin.run)["spec"].get("classes", 0)
        # Of the classes it is known after sharding alone which have an image.
        wanted = config.network_spec(config.data.channels or 3, classes or int(bool(config.model.conditional)))
        check_same_networks(storage, origin, wanted)


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()
