"""What Prefect shows of a release."""

import re
from collections.abc import Mapping

from prefect.artifacts import create_markdown_artifact

from pipeline.progress import note
from pipeline.redact import redact
from pipeline.registry.releases import Release
from pipeline.storage import Storage


def tell_prefect(storage: Storage, release: Release, metrics: Mapping[str, float], page: str) -> None:
    """An artifact of the task that runs: the decision, figures, and where the page is. What goes wrong is a note."""
    figures = "\n".join(f"| {key.replace('_', ' ')} | {value:.4g} |" for key, value in metrics.items())
    text = (
        f"{release.model} version {release.version}: {release.reason}\n\n"
        f"| figure | value |\n|---|---:|\n{figures}\n\nThe page: `{redact(storage.child_uri(page))}`\n"
    )
    key = re.sub(r"[^a-z0-9]+", "-", f"evaluation-{release.model.lower()}")
    try:
        create_markdown_artifact(text, key=key, description=f"{release.model} version {release.version}")
    except Exception as error:
        note(f"no Prefect artifact of {release.model} version {release.version}: {type(error).__name__}")
