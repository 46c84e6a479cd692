"""Images removed for good: from a dataset, from what evaluations keep of them, and which releases know them."""

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import UserError
from pipeline.evaluation.drop import drop_evaluations
from pipeline.registry.pages import drop_pages
from pipeline.registry.server import NoRegistry, client
from pipeline.registry.trained_on import TrainedOn, releases_trained_on
from pipeline.shards.alone import alone
from pipeline.shards.forget import forget, plan_forgetting
from pipeline.shards.forgotten import read_superseded, successor, that_showed
from pipeline.shards.verify import resolve_dataset
from pipeline.storage import Storage


@dataclass(frozen=True)
class Outcome:
    """`done` is false where it was only looked at. `stored` of the `keys` were in a shard.

    `versions`: what is published in the place of each version, itself where nothing was done. `releases` were trained
    on a version that showed one of the images, now or before an earlier call. `pages_left` tells of pages on these
    releases that could not be deleted from MLflow.
    """

    done: bool
    name: str
    keys: int
    stored: int
    shards: int
    versions: dict[str, str]
    releases: list[TrainedOn]
    pages_left: list[str]


def forget_images(storage: Storage, name: str, keys: set[str], *, really: bool) -> Outcome:
    """Raises UserError for no key, no dataset, one that is being changed, or a registry that does not answer.

    Nothing is changed then.
    """
    if not keys:
        raise UserError("no key was given; name them, or give a file with --from")
    resolve_dataset(storage, name)
    try:
        registry = client(storage, create=False)
    except NoRegistry:
        registry = None
    with alone(storage, name) if really else nullcontext((None, None)) as (_, held):
        plan = plan_forgetting(storage, name, keys)
        superseded = forget(storage, plan, held) if held else read_superseded(storage, name)
        if really:
            drop_evaluations(storage, set(superseded))
    showed = that_showed(keys, superseded)
    showed |= {digest for digest, shown in plan.versions.items() if not keys.isdisjoint({key for _, key in shown})}
    # What was superseded showed whatever the version in its place does.
    showed |= {digest for digest in superseded if successor(digest, superseded) in showed}
    releases = releases_trained_on(registry, showed) if registry else []
    return Outcome(
        done=really,
        name=name,
        keys=len(keys),
        stored=len({key for there in plan.holders.values() for key in there} & keys),
        shards=len(plan.holders),
        versions={digest: successor(digest, superseded) for digest in plan.versions},
        releases=releases,
        pages_left=drop_pages(registry, releases) if really and registry else [],
    )


def read_keys(keys: list[str], file: Path | None) -> set[str]:
    """Those given and those in the file, one a line."""
    try:
        lines = file.read_text().split("\n") if file else []
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--from {file}: {getattr(error, 'strerror', None) or 'not a text file'}") from None
    return {key.strip() for key in [*keys, *lines]} - {""}
