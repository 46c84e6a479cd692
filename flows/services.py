"""Whether the servers that the environment names answer: one request each, with its credentials, in seconds.

Imports none of their libraries, which take seconds themselves.
"""

import base64
import os
import socket
import ssl
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from pipeline.redact import redact

PROBE_SECONDS = 4.0
_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}


class Amiss(Exception):
    """What is wrong, and what to do."""

    def __init__(self, detail: str, remedy: str):
        super().__init__(detail)
        self.detail, self.remedy = detail, remedy


def mlflow() -> str:
    """What `MLFLOW_TRACKING_URI` names, in a line; raises Amiss if it does not answer."""
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        return "embedded: a sqlite file in the storage root"
    shown = f"MLFLOW_TRACKING_URI {redact(uri)}"
    remedy = "start or mend it, or unset MLFLOW_TRACKING_URI to keep everything in the storage root"
    parts = _split(uri, shown, remedy)
    kind = parts.scheme.split("+")[0]
    if kind in ("http", "https"):
        token = os.environ.get("MLFLOW_TRACKING_TOKEN")
        user, password = os.environ.get("MLFLOW_TRACKING_USERNAME"), os.environ.get("MLFLOW_TRACKING_PASSWORD")
        login = _basic(f"{user}:{password or ''}") if user else f"Bearer {token}" if token else None
        status, kind = _ask(
            parts, "/api/2.0/mlflow/experiments/search", shown, remedy,
            login=login, body=b'{"max_results": 1}', tls=_mlflow_tls(),
        )  # fmt: skip
        if status in (401, 403):
            raise Amiss(f"{shown} refuses the credentials", "set MLFLOW_TRACKING_USERNAME and _PASSWORD, or _TOKEN")
        if status != 200 or "json" not in kind:
            raise Amiss(f"{shown} does not answer as an MLflow server does (HTTP {status})", remedy)
        return f"{shown} answers"
    if kind in _PORTS and parts.hostname:
        _connect(parts.hostname, _port(parts, shown, remedy) or _PORTS[kind], shown, remedy)
        return f"{shown} accepts connections"
    if kind in ("sqlite", "file", ""):
        path = Path(parts.path.removeprefix("/") if kind == "sqlite" else unquote(parts.path)).expanduser()
        if not os.access(standing_folder(path.absolute()), os.W_OK):
            raise Amiss(f"{shown} can not be written", remedy)
        return shown
    return f"{shown} is not of a kind that can be asked here"


def _mlflow_tls() -> ssl.SSLContext | None:
    """MLflow's own settings of TLS; None for the usual ones."""
    if os.environ.get("MLFLOW_TRACKING_INSECURE_TLS") == "true":
        return ssl._create_unverified_context()
    if path := os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH") or os.environ.get("REQUESTS_CA_BUNDLE"):
        return ssl.create_default_context(cafile=path)
    return None


def prefect() -> str:
    """What `PREFECT_API_URL` names, in a line; raises Amiss if it does not answer."""
    url = os.environ.get("PREFECT_API_URL")
    if not url:
        return "embedded: a server of its own for each run"
    shown = f"PREFECT_API_URL {redact(url)}"
    remedy = "start it, mend the address (it ends in /api), or unset PREFECT_API_URL"
    parts = _split(url, shown, remedy)
    if parts.scheme not in ("http", "https"):
        raise Amiss(f"{shown} is no http address", remedy)
    key, auth = os.environ.get("PREFECT_API_KEY"), os.environ.get("PREFECT_API_AUTH_STRING")
    login = f"Bearer {key}" if key else _basic(auth) if auth else None
    status, kind = _ask(parts, "/health", shown, remedy, login=login)
    if status in (401, 403):
        raise Amiss(f"{shown} refuses the credentials", "set PREFECT_API_KEY or PREFECT_API_AUTH_STRING")
    if status != 200 or "html" in kind:  # without /api the web page answers, to any path
        raise Amiss(f"{shown} does not answer as a Prefect API does (HTTP {status})", remedy)
    return f"{shown} answers"


def ray() -> str:
    """What `RAY_ADDRESS` names, in a line; raises Amiss if it does not answer."""
    address = os.environ.get("RAY_ADDRESS")
    if not address or address == "local":
        return "embedded: a Ray of its own for each command"
    remedy = "start the cluster, or unset RAY_ADDRESS to run on this machine"
    shown = f"RAY_ADDRESS {redact(address)}"
    if address == "auto":
        noted = Path(tempfile.gettempdir(), "ray", "ray_current_cluster")
        try:
            address = noted.read_text().strip()
        except OSError:
            raise Amiss(f"{shown}: no cluster is noted in {noted}", remedy) from None
        shown += f" ({address})"
    parts = _split(address if "://" in address else f"//{address}", shown, remedy)
    if parts.scheme not in ("", "ray"):
        raise Amiss(f"{shown} is no address that a program can join", "set it to HOST:PORT or ray://HOST:PORT")
    port = _port(parts, shown, remedy) or (10001 if parts.scheme else 6379)
    _connect(parts.hostname or "", port, shown, remedy)
    return f"{shown} accepts connections"


def _split(uri: str, shown: str, remedy: str) -> SplitResult:
    try:
        return urlsplit(uri)
    except ValueError:
        raise Amiss(f"{shown} is no address", remedy) from None


def _port(parts: SplitResult, shown: str, remedy: str) -> int | None:
    try:
        return parts.port
    except ValueError:  # its text holds what stands there, a password perhaps
        raise Amiss(f"{shown} has a port that is no number", remedy) from None


def _connect(host: str, port: int, shown: str, remedy: str) -> None:
    try:
        socket.create_connection((host, port), PROBE_SECONDS).close()
    except OSError as error:
        raise Amiss(f"{shown} does not answer: {reason_of(error)}", remedy) from None


def _ask(
    parts: SplitResult, path: str, shown: str, remedy: str,
    login: str | None = None, body: bytes | None = None, tls: ssl.SSLContext | None = None,
) -> tuple[int, str]:  # fmt: skip
    """One HTTP request: its status and content type."""
    _port(parts, shown, remedy)
    user, at, address = parts.netloc.rpartition("@")
    login = login or (_basic(unquote(user)) if at else None)
    url = urlunsplit((parts.scheme, address, parts.path.rstrip("/") + path, "", ""))
    try:
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        if login:  # for this server alone, wherever it redirects to
            request.add_unredirected_header("Authorization", login)
        with urllib.request.urlopen(request, timeout=PROBE_SECONDS, context=tls) as response:
            return response.status, response.headers.get("Content-Type", "")
    except urllib.error.HTTPError as error:
        error.close()
        return error.code, error.headers.get("Content-Type", "")
    except urllib.error.URLError as error:
        reason = reason_of(error.reason) if isinstance(error.reason, OSError) else "no connection"
        raise Amiss(f"{shown} does not answer: {reason}", remedy) from None
    except Exception as error:  # not HTTP, or no URL
        raise Amiss(f"{shown} does not answer: {reason_of(error)}", remedy) from None


def _basic(login: str) -> str:
    return "Basic " + base64.b64encode(login.encode()).decode()


def reason_of(error: Exception) -> str:
    """What the system says, without what was asked of it."""
    if isinstance(error, ssl.SSLError):
        return f"TLS: {getattr(error, 'verify_message', None) or error.reason or 'no handshake'}"
    return (isinstance(error, OSError) and error.strerror) or type(error).__name__


def standing_folder(folder: Path) -> Path:
    """The nearest folder above that exists, or this one."""
    return next((path for path in (folder, *folder.parents) if path.exists()), folder)
