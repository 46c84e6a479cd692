"""From a path or a URI to the file system that holds it: local disk, S3 or GCS, through pyarrow.fs."""

import re
from pathlib import Path

from pyarrow import fs

from pipeline.errors import UserError


def absolute(uri: str) -> str:
    """The same place from any working directory."""
    return uri if "://" in uri else str(Path(uri).expanduser().resolve())


def connect(uri: str, use: str) -> tuple[fs.FileSystem, str]:
    """The file system and the path on it; raises UserError "cannot use `uri` as `use`" for a URI of another kind."""
    if "://" not in uri:
        return fs.LocalFileSystem(), uri
    try:
        filesystem, path = fs.FileSystem.from_uri(uri.replace(" ", "%20"))
    except (OSError, ValueError, ImportError) as error:
        said = first_line(error).replace(uri, shown(uri)).replace(uri.replace(" ", "%20"), shown(uri))
        raise UserError(
            f"cannot use {shown(uri)} as {use}: {said}; give a local path or an s3:// or gs:// URI"
        ) from None
    return filesystem, path.rstrip("/")


def shown(uri: str) -> str:
    """For people: without the keys that a URI may carry."""
    return re.sub(r"(?<=://)[^@?]*@", "", uri)


def first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
