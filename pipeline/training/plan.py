"""What a recipe on a dataset version comes to, before anything runs."""

from dataclasses import dataclass, replace

from ganmodels.spec import NetworkSpec
from pipeline.config import Config, Data
from pipeline.errors import UserError
from pipeline.progress import note
from pipeline.shards.manifest import FOREIGN, DatasetRef, Manifest, load_manifest
from pipeline.shards.opened import open_view
from pipeline.shards.order import BatchOrder, Order
from pipeline.shards.version import made_alike
from pipeline.shards.view import BalancedOrder, View, shown_classes
from pipeline.storage import Storage, sha256
from pipeline.training.checkpoint import CheckpointRef, newest_step
from pipeline.training.fork import check_goes_on
from pipeline.training.precision import resolve_precision


@dataclass(frozen=True)
class RunPlan:
    """`run` is its name: the same for everything that gives the same weights."""

    run: str
    dataset: DatasetRef
    spec: NetworkSpec
    classes: list[str]
    bf16: bool
    total_steps: int
    init: bytes | None = None  # safetensors of the generator to start from
    fork: CheckpointRef | None = None  # of another run, to start from with all its state


def plan_run(
    storage: Storage,
    config: Config,
    dataset: DatasetRef,
    init: bytes | None = None,
    fork: CheckpointRef | None = None,
) -> RunPlan:
    """`init` is the weights behind `training.init`. Where the run that the recipe names has seen more than
    `training.images` already, fewer images are another run, from the start.

    Raises UserError where the dataset does not suit the recipe (too few images, or made otherwise), or what it forks
    does not.
    """
    if fork:
        check_goes_on(config, fork)
    manifest = load_manifest(storage, dataset)
    if not _suits(manifest, config.data):
        anew = "index" if manifest.encoding == FOREIGN else "run"
        raise UserError(
            f"dataset {dataset.name} was made with other data.* values than this recipe's ({_made(manifest)});"
            f" `ganline {anew}` makes it anew, or change the recipe"
        )
    try:
        order_of(manifest, config, open_view(storage, dataset, manifest, config.data))
    except ValueError as error:
        raise UserError(f"dataset {dataset.name}: {error}; add images or lower training.batch") from None
    precision = resolve_precision(config.training.precision)
    total_steps = -(-config.training.images // config.training.batch)  # the first step at or past them
    classes = shown_classes(manifest, config.data)
    run = config.run_name(dataset.digest, precision, sha256(init) if init else None, fork.digest if fork else None)
    if newest_step(storage, run) > total_steps:
        note(f"run {run} has seen more than {config.training.images:,} images: fewer are a run of their own")
        run = f"{run}-{config.training.images}"
    return RunPlan(
        run=run,
        dataset=dataset,
        spec=config.network_spec(manifest.channels, len(classes)),
        classes=classes,
        bf16=precision == "bf16",
        total_steps=total_steps,
        init=init,
        fork=fork,
    )


def _suits(manifest: Manifest, data: Data) -> bool:
    """Tars made elsewhere have encodings, and a way to their labels, that no recipe names."""
    if manifest.encoding != FOREIGN:
        return made_alike(manifest, data)
    made = {key: value for key, value in manifest.processing.items() if key != "tar"}
    return made_alike(replace(manifest, encoding=data.encoding, processing=made), data)


def _made(manifest: Manifest) -> str:
    shared = {"resolution": manifest.resolution, "channels": manifest.channels}
    shared |= {key: manifest.processing[key] for key in ("background", "held_out") if key in manifest.processing}
    return "it has " + ", ".join(f"{key} {value}" for key, value in shared.items())


def order_of(manifest: Manifest, config: Config, view: View | None) -> BatchOrder:
    """The order of the training images. Raises ValueError if they do not fill one batch."""
    keys = {
        "batch": config.training.batch, "streams": config.data.streams,
        "window": config.data.window, "seed": config.training.seed,
    }  # fmt: skip
    if view and config.data.balance:
        return BalancedOrder(view.table, shown_classes(manifest, config.data), **keys)
    counts = view.counts if view else [shard.samples - shard.removed for shard in manifest.of_split("train")]
    return Order(counts, **keys)
