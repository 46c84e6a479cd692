"""A page that shows a dataset version, for people: what is in it, what was refused, what changed.

    <storage>/datasets/<name>/versions/<digest>/report/index.html       needs nothing else to be read
    <storage>/datasets/<name>/versions/<digest>/report/contact.png

Other versions of Ganline may make it otherwise; nothing reads it.
"""

from pipeline.pages.render import render
from pipeline.progress import note
from pipeline.shards.manifest import DatasetRef
from pipeline.storage import Storage
from pipeline.trust.facts import Facts, find_facts

_LISTED = 30  # classes in a table


def report_path(dataset: DatasetRef) -> str:
    return f"{dataset.folder}/report/index.html"


def report_once(storage: Storage, dataset: DatasetRef) -> str | None:
    """Makes the report unless it is there and newer than the tables, and gives its path.

    None, and a note, where it can not be made. Whatever goes wrong with it never stops what it reports on.
    """
    try:
        if not _is_current(storage, dataset):
            write_report(storage, dataset)
    except Exception as error:
        said = (str(error).splitlines() or [""])[0]
        note(f"no report on dataset {dataset.name} {dataset.digest[:12]}: {type(error).__name__}: {said}")
        return None
    return report_path(dataset)


def _is_current(storage: Storage, dataset: DatasetRef) -> bool:
    """An ingest that finds the same images beside other files writes the tables of a version again."""
    filesystem, page = storage.locate(report_path(dataset))
    made, told = filesystem.get_file_info([page, storage.locate(f"{dataset.folder}/sources.parquet")[1]])
    return made.is_file and told.is_file and made.mtime_ns >= told.mtime_ns


def write_report(storage: Storage, dataset: DatasetRef) -> None:
    from pipeline.trust.plots import contact_sheet

    facts, sheet = find_facts(storage, dataset), contact_sheet(storage, dataset)
    if sheet:
        storage.write(f"{dataset.folder}/report/contact.png", sheet)
    storage.write(report_path(dataset), page(facts, sheet).encode())


def page(facts: Facts, sheet: bytes | None) -> str:
    """The HTML, with its pictures in it. Every name from outside is escaped."""
    # Only here: matplotlib takes half a second to import, and most commands find their report made.
    from pipeline.trust.plots import SHEET, aspect_plot, class_plot, size_plot

    largest = sorted(facts.classes.items(), key=lambda item: (-sum(item[1]), item[0]))
    return render(
        "pipeline.trust",
        "report.html",
        facts=facts,
        manifest=facts.manifest,
        sheet=sheet,
        on_sheet=min(SHEET, facts.manifest.samples["train"]),
        classes=dict(largest[:_LISTED]),
        class_plot=class_plot(facts.classes) if len(facts.classes) > 1 else None,
        size_plot=size_plot(facts.widths, facts.heights) if facts.widths else None,
        aspect_plot=aspect_plot(facts.aspects) if facts.aspects else None,
        sides={"width": _range(facts.widths), "height": _range(facts.heights)} if facts.widths else {},
    )


def _range(counts: dict[int, int]) -> tuple[int, int, int]:
    """Smallest, median, largest."""
    middle, seen = (sum(counts.values()) + 1) // 2, 0
    for value in sorted(counts):
        seen += counts[value]
        if seen >= middle:
            return min(counts), value, max(counts)
    raise ValueError("no sizes")
