"""An evaluated generator as one HTML page that needs nothing else to be read, and the pictures on it."""

from dataclasses import dataclass

from pipeline.evaluation.page import samples
from pipeline.evaluation.page.curves import LOSSES, MEASURED, Points, curve
from pipeline.evaluation.page.figures import rows
from pipeline.evaluation.page.neighbours import Pairs, pair_sheet
from pipeline.evaluation.report import EvaluationReport
from pipeline.pages.render import render
from pipeline.registry.generator import Generator


@dataclass(frozen=True)
class Subject:
    """All that a page tells of: `points` are the run's telemetry, `champion` the name and the report of what it is
    compared with, if anything.

    `title` is for people. `pairs` has samples and their nearest training images, if known.
    """

    title: str
    report: EvaluationReport
    generator: Generator
    points: Points = ()
    pairs: Pairs | None = None
    champion: tuple[str, EvaluationReport] | None = None


def pictures(subject: Subject) -> dict[str, bytes]:
    """PNG by name, such as `samples`; those that there is nothing to show for are left out."""
    made = {
        "samples": samples.samples(subject.generator),
        "losses": curve(subject.points, LOSSES),
        "measured": curve(subject.points, MEASURED),
        "classes": samples.class_rows(subject.generator),
        "interpolations": samples.interpolations(subject.generator),
        "truncations": samples.truncations(subject.generator),
        "neighbours": pair_sheet(subject.pairs) if subject.pairs and len(subject.pairs.distances) else None,
    }
    return {name: picture for name, picture in made.items() if picture is not None}


def page(subject: Subject, shown: dict[str, bytes]) -> bytes:
    """The HTML, with those pictures in it. Every name from outside is escaped."""
    report, generator = subject.report, subject.generator
    table = rows(report, subject.champion[1] if subject.champion else None)
    text = render(
        "pipeline.evaluation.page",
        "page.html",
        subject=subject,
        report=report,
        spec=generator.spec,
        pictures=shown,
        rows=table,
        sure=any(row.within for row in table),
        class_names=generator.class_names[: samples.MOST_CLASSES],
        truncations=samples.TRUNCATIONS,
        seed=samples.SEED,
    )
    return text.encode()
