"""What a model card tells, from what the stages know."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pipeline.config import Config
from pipeline.evaluation.real import images_there
from pipeline.patience import first_line
from pipeline.progress import note
from pipeline.redact import redact_within
from pipeline.registry.card import Card, write_card
from pipeline.registry.generator import Generator
from pipeline.registry.releases import Release
from pipeline.shards.manifest import DatasetRef, load_manifest
from pipeline.shards.view import shown_classes
from pipeline.storage import Storage

if TYPE_CHECKING:
    from flows.stages import Evaluation, Training


def add_card(client: Any, released: Release, make: Callable[[], Card]) -> None:
    """Puts the card beside a version. It is released by then: what goes wrong with the card is a note."""
    try:
        write_card(client, make())
    except Exception as error:  # each artifact store has its own
        said = redact_within(first_line(error))
        note(f"no model card of {released.model} version {released.version}: {type(error).__name__}: {said}")


def card_of(
    storage: Storage,
    config: Config,
    dataset: DatasetRef,
    training: "Training",
    evaluation: "Evaluation",
    generator: Generator,
    released: Release,
) -> Card:
    figures = evaluation.report.figures if evaluation.report else ()
    manifest = load_manifest(storage, dataset)
    shown = shown_classes(manifest, config.data)
    return Card(
        model=released.model,
        version=released.version,
        spec=generator.spec,
        classes=generator.class_names,
        dataset=dataset.name,
        dataset_digest=dataset.digest,
        samples={split: images_there(storage, dataset, manifest, shown, split) for split in ("train", "held_out")},
        config_digest=config.digest(),
        run=training.run,
        checkpoint=training.candidate.path,
        images_seen=training.candidate.images,
        weights_sha256=generator.weights_sha256(),
        figures=tuple((figure.name, figure.value) for figure in figures),
        promoted=released.promoted,
        reason=released.reason,
        licence=config.release.licence,
        problem=evaluation.problem,
    )
