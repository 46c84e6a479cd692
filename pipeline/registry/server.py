"""Which MLflow: the one that MLFLOW_TRACKING_URI names, else a sqlite file in the storage root."""

import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pipeline.errors import Unavailable, UserError
from pipeline.redact import redact
from pipeline.storage import DEFAULT_ROOT, Storage

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

PROBE_SECONDS = 4  # to connect, and again to answer

# Stores that have answered while this command runs: one of them that does not any more is away, and no mistake.
_answered: ContextVar[frozenset[str]] = ContextVar("answered", default=frozenset())

# MLflow's names for what is no answer: the last two are a proxy's before a server that is busy.
_AWAY = (
    "INTERNAL_ERROR",
    "TEMPORARILY_UNAVAILABLE",
    "DEADLINE_EXCEEDED",
    "RESOURCE_EXHAUSTED",
    "REQUEST_LIMIT_EXCEEDED",
)

_SQLITE = "sqlite:///"
_MAKING, _MADE_SECONDS = ".mlflow-", 600  # the folder that a database is made in, and how long that takes at most
_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}


class NoRegistry(UserError):
    """Nothing was ever registered here."""


def client(storage: Storage, *, create: bool = True) -> "MlflowClient":
    """A client of the tracking store and the registry, known to answer.

    Without `create`, an embedded store that is not there yet is a NoRegistry and stays absent, so that a
    look-up leaves no trace. Raises UserError within ten seconds for a server that does not answer.
    """
    uri = tracking_uri(storage)
    if uri.startswith(("http://", "https://")):
        _probe_server(uri)
    elif urlsplit(uri).scheme.split("+")[0] in ("sqlite", *_PORTS):
        _probe_database(uri, create)

    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    try:
        found = MlflowClient(uri)
    except MlflowException as error:
        raise _unusable(uri, error) from None
    _answered.set(_answered.get() | {uri})
    return found


@contextmanager
def outages(storage: Storage) -> Iterator[None]:
    """A store that dies after `client` found it is Unavailable too; what it answers is raised as it is."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code not in _AWAY:
            raise
        raise _unusable(tracking_uri(storage), error) from None


def has_answered(storage: Storage) -> bool:
    """Whether `client` has found the store since this command began."""
    return tracking_uri(storage) in _answered.get()


def tracking_uri(storage: Storage) -> str:
    """From the environment, else `mlflow.db` in a local storage root, else in `.ganline` here."""
    if named := os.environ.get("MLFLOW_TRACKING_URI"):
        return named
    folder = storage.local_path() if storage.is_local else Path(DEFAULT_ROOT).resolve()
    return _sqlite_uri(folder / "mlflow.db")


def artifact_location(uri: str) -> str | None:
    """Where a new experiment's artifacts go; None where a server decides.

    Beside the sqlite file. MLflow's own default is `mlruns` in the working directory.
    """
    scheme = urlsplit(uri).scheme.split("+")[0]
    if scheme not in ("sqlite", *_PORTS):
        return None
    folder = _sqlite_path(uri).parent if uri.startswith(_SQLITE) else Path(DEFAULT_ROOT).resolve()
    return (folder / "mlartifacts").as_uri()


def _sqlite_path(uri: str) -> Path:
    return Path(uri.removeprefix(_SQLITE).partition("?")[0]).resolve()


def _probe_server(uri: str) -> None:
    """One request with MLflow's own credentials, proxies and TLS settings, but without its retries."""
    from mlflow.exceptions import MlflowException
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    # Its defaults keep a caller of a server that dies later waiting for four minutes, and one that hangs for sixteen.
    # Once more is what a kept connection needs that the server has closed; the rest is tried again by who calls.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    # It prints a finished run's URL, password and all, to standard output, which is kept for JSON.
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    try:
        response = http_request(
            get_default_host_creds(uri), "/api/2.0/mlflow/experiments/search", "POST",
            json={"max_results": 1}, max_retries=0, timeout=PROBE_SECONDS, raise_on_status=False,
        )  # fmt: skip
    except MlflowException:  # its text holds the whole URI
        raise Unavailable(f"MLFLOW_TRACKING_URI {redact(uri)} does not answer; {_REMEDY}") from None
    if response.status_code in (401, 403):
        raise UserError(
            f"MLFLOW_TRACKING_URI {redact(uri)} refuses the credentials; set MLFLOW_TRACKING_USERNAME and"
            " MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        )
    if response.status_code != 200:
        away = response.status_code == 429 or response.status_code >= 500  # a proxy says so before a dead server
        raise (Unavailable if away else UserError)(
            f"MLFLOW_TRACKING_URI {redact(uri)} does not answer as an MLflow server does"
            f" (HTTP {response.status_code}); {_REMEDY}"
        )


def _probe_database(uri: str, create: bool) -> None:
    """One attempt to connect and read: MLflow itself tries a broken database for a minute and a half."""
    from sqlalchemy import create_engine, inspect

    try:
        if uri.startswith(_SQLITE) and (path := _sqlite_path(uri)).name != ":memory:":
            if not create and not path.exists():
                raise NoRegistry(
                    f"there is no model registry at {path} yet; `ganline run mnist` makes one,"
                    " or set MLFLOW_TRACKING_URI or GANLINE_STORAGE to where it is"
                )
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                _make_database(path)
        parts = urlsplit(uri)
        if parts.hostname:
            port = parts.port or _PORTS[parts.scheme.split("+")[0]]
            socket.create_connection((parts.hostname, port), PROBE_SECONDS).close()
        engine = create_engine(uri)
        inspect(engine).get_table_names()
        engine.dispose()
    except UserError:
        raise
    except Exception as error:  # each driver has its own, and a driver may be missing
        raise _unusable(uri, error) from None


def _make_database(path: Path) -> None:
    """Whole or not at all: MLflow, killed while it makes its tables, leaves a file that it can not go on with."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    for left in path.parent.glob(f"{_MAKING}*"):  # by one that was killed
        with suppress(FileNotFoundError):  # another command clears away, too
            if time.time() - left.stat().st_mtime > _MADE_SECONDS:
                shutil.rmtree(left, ignore_errors=True)
    with TemporaryDirectory(prefix=_MAKING, dir=path.parent) as folder:
        new = Path(folder, path.name)
        SqlAlchemyStore(_sqlite_uri(new), (path.parent / "mlartifacts").as_uri()).engine.dispose()
        try:
            os.link(new, path)
        except FileExistsError:
            pass  # another command was quicker
        except OSError:  # a file system without links
            if not path.exists():
                new.replace(path)


def _sqlite_uri(path: Path) -> str:
    """The path as it is: SQLAlchemy unquotes nothing in it, and takes what follows a question mark for options."""
    if "?" in str(path):
        raise UserError(f"no MLflow store can be at {path}, for its question mark; take another folder")
    return _SQLITE + str(path)


def _unusable(uri: str, error: Exception) -> UserError:
    reason = redact((str(error).splitlines() or [type(error).__name__])[0])
    return Unavailable(f"cannot use the MLflow store {redact(uri)}: {reason}; {_REMEDY}")


_REMEDY = "start or mend it, or unset MLFLOW_TRACKING_URI to keep everything in the storage root"
