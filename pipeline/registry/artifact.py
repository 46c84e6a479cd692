"""A release's files, from the local cache or the artifact store, and never believed unchecked."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline.redact import redact
from pipeline.storage import Storage, cache_root, sha256

WEIGHTS = "generator.safetensors"
SPEC = "spec.json"
ENCODER = "encoder.safetensors"  # where the generator has one


class ArtifactError(Exception):
    """A released file cannot be fetched, or is not what was released; the message names it."""


def read_release(
    storage: Storage,
    model: str,
    version: int,
    uri: str,
    tracking_uri: str,
    sha256s: dict[str, str],
) -> dict[str, bytes]:
    """Those files of a version whose names are given, each with the sha256 that the registry's database gives.

    A cached file that fails its sha256 is fetched anew, once. Raises ArtifactError.
    """
    cache = Storage(str(cache_root(storage)))

    def read(name: str, sha: str) -> bytes:
        path = f"models/{model}/{version}/{name}"
        return _cached(cache, path, sha, lambda: _download(f"{uri}/{name}", tracking_uri))

    return {name: read(name, sha) for name, sha in sha256s.items()}


def _cached(cache: Storage, path: str, sha: str, download: Callable[[], bytes]) -> bytes:
    try:
        data = cache.read(path)
    except FileNotFoundError:
        pass
    else:
        if sha256(data) == sha:
            return data
    data = download()
    if sha256(data) != sha:
        raise ArtifactError(
            f"{path.removeprefix('models/')} in the artifact store is not the file that was released"
            f" (sha256 {sha256(data)[:12]}, the registry has {sha[:12]}); promote another version"
        )
    cache.write(path, data)
    return data


def _download(uri: str, tracking_uri: str) -> bytes:
    from mlflow.artifacts import download_artifacts

    with TemporaryDirectory() as folder:
        try:
            path = download_artifacts(artifact_uri=uri, dst_path=folder, tracking_uri=tracking_uri)
            return Path(path).read_bytes()
        except Exception as error:  # each artifact store has its own
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ArtifactError(f"cannot fetch {redact(uri)}: {redact(reason)}") from None
