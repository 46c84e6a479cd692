"""From a path or a URI to the file system that holds it: local disk, S3 or GCS, through pyarrow.fs."""

from pathlib import Path

from pyarrow import fs

from pipeline import object_store
from pipeline.errors import Unavailable, UserError
from pipeline.patience import first_line, may_pass
from pipeline.redact import redact


def absolute(uri: str) -> str:
    """The same place from any working directory."""
    return uri if "://" in uri else str(Path(uri).expanduser().resolve())


def connect(uri: str, use: str) -> tuple[fs.FileSystem, str]:
    """The file system and the path on it; raises UserError "cannot use `uri` as `use`" for a URI of another kind."""
    if "://" not in uri:
        return fs.LocalFileSystem(), uri
    quoted = uri.replace(" ", "%20")
    try:
        filesystem, path = object_store.connect(quoted)
    except (OSError, ValueError, ImportError) as error:
        kind = Unavailable if isinstance(error, OSError) and may_pass(error) else UserError
        said = first_line(error).replace(uri, redact(uri)).replace(quoted, redact(uri))
        raise kind(f"cannot use {redact(uri)} as {use}: {said}; give a local path or an s3:// or gs:// URI") from None
    return filesystem, path.rstrip("/")
