"""What a version was judged on, as it lies among its run's artifacts."""

from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline.errors import UserError
from pipeline.patience import first_line
from pipeline.redact import redact
from pipeline.registry.artifact import ArtifactError
from pipeline.registry.lookup import resolve
from pipeline.registry.server import client as connect
from pipeline.registry.server import outages
from pipeline.storage import Storage, sha256

# Tags of a version: paths among the artifacts of its run.
PAGE, EVALUATION = "ganline.page", "ganline.evaluation"


def report(model: str, version: int, storage: Storage) -> tuple[bytes, str]:
    """What a version was last judged on, and its media type: the page for people, else the evaluation's JSON.

    The JSON is as it was then, or refused; nothing vouches for the page: show it without scripts. Raises UserError if
    there is none, ArtifactError if it is gone or is not that one any more, Unavailable if the registry does not answer.
    """
    client = connect(storage, create=False)
    with outages(storage):
        found = resolve(client, model, version)
    path = found.tags.get(PAGE) or found.tags.get(EVALUATION)
    if not path or not found.run_id:
        raise UserError(f"version {version} of {model} has no evaluation report")
    with TemporaryDirectory() as folder:
        try:
            data = Path(client.download_artifacts(found.run_id, path, folder)).read_bytes()
        except Exception as error:  # each artifact store has its own
            said = f"{type(error).__name__}: {redact(first_line(error))}"
            raise ArtifactError(f"cannot fetch the evaluation report of version {version} of {model}: {said}") from None
    if path == found.tags.get(PAGE):
        return data, "text/html"
    if sha256(data) != found.tags.get(f"{EVALUATION}.sha256"):
        raise ArtifactError(f"the evaluation report of version {version} of {model} is not the one it was judged on")
    return data, "application/json"
