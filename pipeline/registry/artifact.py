"""A release's files, from the local cache or the artifact store, and never believed unchecked."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline.redact import redact
from pipeline.registry.found import Found
from pipeline.storage import Storage, sha256

WEIGHTS = "generator.safetensors"
SPEC = "spec.json"
ENCODER = "encoder.safetensors"  # where the generator has one

_ELSEWHERE = ("file:", "s3:", "gs:")


class ArtifactError(Exception):
    """A released file cannot be fetched, or is not what was released; the message names it."""


def read_release(cache: Storage, found: Found, tracking_uri: str) -> dict[str, bytes]:
    """A release's files by name, each with the sha256 that the registry's database gives.

    A cached file that fails its sha256 is fetched anew, once. Raises ArtifactError.
    """
    folder = f"{found.uri}/{found.folder}" if found.folder else found.uri
    sha256s = {WEIGHTS: found.weights_sha256, SPEC: found.spec_sha256}
    if found.encoder_sha256 is not None:
        sha256s[ENCODER] = found.encoder_sha256

    def read(name: str, sha: str) -> bytes:
        path = f"models/{found.model}/{found.version}/{name}"

        def download() -> bytes:
            if found.stale and not folder.startswith(_ELSEWHERE):  # it would come through the server that is away
                raise ArtifactError(f"{path} is not whole in the cache, and what has it does not answer; try later")
            return _download(f"{folder}/{name}", tracking_uri)

        return _cached(cache, path, sha, download)

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
