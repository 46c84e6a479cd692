"""The page on a candidate, made once and put beside its run in MLflow."""

from pathlib import PurePosixPath
from typing import Any

from pipeline.evaluation.evaluate import Features
from pipeline.evaluation.page.stored import INDEX, page_once
from pipeline.evaluation.report import EvaluationReport
from pipeline.patience import first_line
from pipeline.progress import note
from pipeline.redact import redact_within
from pipeline.registry.generator import Generator
from pipeline.registry.releases import name_page
from pipeline.storage import Storage
from pipeline.training.telemetry import read_points


def show_candidate(
    storage: Storage,
    client: Any,
    model: str,
    version: int,
    run: str,
    measured: tuple[EvaluationReport, Features],
    generator: Generator,
    champion: tuple[str, EvaluationReport] | None,
) -> str | None:
    """Makes the page, stores it among the artifacts of the version's run, and gives its path in the storage root.

    `champion` is the name and the report of the version that it was compared with. What goes wrong is a note, and None.
    """
    title = f"{model} version {version}"
    try:
        folder, files = page_once(storage, title, *measured, generator, read_points(storage, run), champion)
        name_page(client, model, version, PurePosixPath(folder).name, files)
        return f"{folder}/{INDEX}"
    except Exception as error:
        note(f"no page on {title}: {type(error).__name__}: {redact_within(first_line(error))}")
        return None
