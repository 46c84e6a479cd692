"""Checks before any long work: what can be known to fail fails now, in one line, with nothing written."""

import os
from itertools import islice

from flows import services
from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.ingest.image import InvalidImage, decode, rules_of
from pipeline.ingest.source import open_source, read_one
from pipeline.storage import Storage

_TRIED = 1000  # files, until one is an image


def check_source(config: Config, *, for_training: bool) -> None:
    """Raises UserError for a source that is missing, empty or without an image, or too small to train on."""
    data, source = config.data, open_source(config.data.source)
    items = list(source.items())
    if for_training:
        to_train_on = int(len(items) * (1 - data.held_out))
        if to_train_on < config.training.batch:
            raise UserError(
                f"{data.source} has {len(items)} files, {to_train_on} of them to train on, which do not fill one"
                f" batch of {config.training.batch}; add images or lower training.batch"
            )
        config.network_spec(data.channels or 3, len({item.label for item in items if item.label is not None}))
    rules = rules_of(data)
    reasons: dict[str, None] = {}
    for item in islice(items, _TRIED):
        try:
            decode(read_one(source, item.path), rules, item.path)
            return
        except InvalidImage as why:
            reasons[why.reason] = None
    if len(items) <= _TRIED:
        raise UserError(f"{data.source} holds no valid image ({', '.join(reasons)}); check what the files are")


def check_services(config: Config, storage: Storage) -> None:
    """Raises UserError for a server that the environment names and that does not answer, or workers that are not
    there."""
    cores = os.cpu_count() or 1
    if not os.environ.get("RAY_ADDRESS") and (config.cluster.workers or 1) > max(cores, _gpus()):
        raise UserError(
            f"cluster.workers is {config.cluster.workers} but this machine has {cores} cores;"
            " ask for fewer, or set RAY_ADDRESS to a cluster"
        )
    for look in (services.ray, services.prefect, services.mlflow):
        try:
            look()
        except services.Amiss as amiss:
            raise UserError(f"{amiss.detail}; {amiss.remedy}") from None
    if config.training.init:
        from pipeline.registry.lookup import lookup

        lookup(config.training.init, storage)


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()
