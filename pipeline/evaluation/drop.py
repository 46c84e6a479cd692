"""What evaluations keep of a dataset's images: their features, to be dropped with the images."""

from pipeline.storage import Storage


def drop_evaluations(storage: Storage, datasets: set[str]) -> None:
    """Deletes the kept features of these versions' images, and those that do not say whose they are.

    All of it can be computed again.
    """
    for folder in ("evaluations/real", "evaluations/generated"):
        for entry in list(storage.list(folder)):
            if entry.path.endswith(".json") and _dataset(storage, entry.path) in {None, *datasets}:
                storage.delete(entry.path.removesuffix("json") + "safetensors")
                storage.delete(entry.path)


def _dataset(storage: Storage, path: str) -> str | None:
    try:
        told = storage.read_json(path)
        return told["report"]["dataset"]["digest"] if "report" in told else told["dataset"]
    except (ValueError, KeyError, TypeError):
        return None
