"""What evaluations keep of a dataset's images: features, classifiers of them, and pages that show some."""

from pipeline.storage import Storage

_PAGES = "evaluations/pages"


def drop_evaluations(storage: Storage, datasets: set[str]) -> None:
    """Deletes the kept features of these versions' images, the classifiers trained on them, pages on generators that
    were measured against them, and what does not say whose it is.

    All but the pages can be computed again.
    """
    for folder in ("evaluations/real", "evaluations/generated", "evaluations/classifiers"):
        for kept in sorted({entry.path.rpartition(".")[0] for entry in storage.list(folder)}):
            if _dataset(storage, f"{kept}.json") in {None, *datasets}:
                storage.delete(f"{kept}.safetensors")
                storage.delete(f"{kept}.json")
    for page in sorted({entry.path.removesuffix(".json") for entry in storage.list(_PAGES)}):
        if _dataset(storage, f"{page}.json") in {None, *datasets}:
            storage.delete_folder(page)
            storage.delete(f"{page}.json")


def _dataset(storage: Storage, path: str) -> str | None:
    try:
        told = storage.read_json(path)
        return told["report"]["dataset"]["digest"] if "report" in told else told["dataset"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
