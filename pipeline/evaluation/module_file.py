"""The file of `evaluation.features`: fetched once, kept in the cache, and not believed before its sha256 is checked."""

import http.client
import re
import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pyarrow import fs

from pipeline.errors import Unavailable, UserError
from pipeline.location import connect
from pipeline.object_store import read_whole
from pipeline.patience import Patience, first_line, may_pass
from pipeline.progress import note
from pipeline.redact import redact
from pipeline.storage import Storage, sha256

_KEY = "evaluation.features"
_PATIENCE = Patience()
_TIMEOUT_SECONDS = 60


@dataclass(frozen=True)
class ModuleFile:
    """`uri` is an absolute local path, or begins with https://, s3:// or gs://; `cache` is a folder on this machine."""

    uri: str
    sha256: str
    cache: Path

    @property
    def named(self) -> str:
        """For messages."""
        return f"{_KEY} {redact(self.uri)}"

    def read(self, *, keep: bool = True) -> bytes:
        """Its bytes, from the cache where they are whole there; kept there if asked for.

        A cache that can not be written is a note. Raises UserError for a file that is not there, can not be read or has
        another sha256, and Unavailable where what has it does not answer for a minute.
        """
        cache, kept = Storage(str(self.cache)), f"{self.sha256}.pt"
        try:
            data = cache.read(kept)
        except OSError:  # it is not there, or not to be had
            pass
        else:
            if sha256(data) == self.sha256:
                return data
        data = self._fetched()
        if (found := sha256(data)) != self.sha256:
            raise UserError(
                f"{self.named} has sha256 {found}, not {_KEY}_sha256 {self.sha256}:"
                " it is another file than the one that you meant, and was not loaded"
            )
        if keep:
            try:
                cache.write(kept, data)
            except OSError as error:
                note(f"{self.named} is not kept in {self.cache}: {first_line(error)}")
        return data

    def _fetched(self) -> bytes:
        try:
            if self.uri.startswith("https://"):
                _check_address(self.uri)
                return _PATIENCE.call(f"fetching {self.named}", lambda: _over_https(self.uri))
            filesystem, path = connect(self.uri, _KEY)
            if isinstance(filesystem, fs.LocalFileSystem):
                return read_whole(filesystem, path, 0, None)
            return _PATIENCE.call(f"fetching {self.named}", lambda: read_whole(filesystem, path, 0, None))
        except FileNotFoundError:
            raise UserError(f"{self.named} is not there; give a path or a URL of a TorchScript file") from None
        except OSError as error:
            kind, said = Unavailable if may_pass(error) else UserError, first_line(error)
            raise kind(said if self.named in said else f"cannot fetch {self.named}: {said}") from None


def _check_address(url: str) -> None:
    """Raises UserError, with nothing of the address in it, for one that could not be asked, or that has a password."""
    try:
        parts = urlsplit(url)
        sound = "@" not in parts.netloc and url.isascii() and not re.search(r"[\x00-\x20\x7f]", url)
        sound &= bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        sound = False
    if not sound:
        raise UserError(
            f"{_KEY} is no address that can be fetched; write it as https://host/path, with what is not ASCII and"
            " blanks percent-encoded, and without user and password"
        )


def _over_https(url: str) -> bytes:
    """Raises OSError: FileNotFoundError and PermissionError for what no other attempt would change."""
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as answer:
            return answer.read()
    except urllib.error.HTTPError as error:
        if error.code in (404, 410):
            raise FileNotFoundError(str(error)) from None
        if 400 <= error.code < 500 and error.code not in (408, 425, 429):
            raise PermissionError(str(error)) from None
        raise
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            raise PermissionError(str(error.reason)) from None
        raise
    except http.client.HTTPException as error:  # an answer that ends too soon, or is none
        raise OSError(f"{type(error).__name__}: {error}") from None
