"""From what a user writes, paths, globs, braces and URIs, to the tars that it names."""

import glob
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path

from braceexpand import braceexpand

from pipeline.errors import UserError
from pipeline.shards.manifest import split_uri
from pipeline.storage import Entry, Storage

_MOST = 100_000  # tars of one pattern
_RANGE = re.compile(r"\{(-?\d+)\.\.(-?\d+)(?:\.\.-?\d+)?\}")
_GLOB = re.compile(r"[*?[]")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_SECRET = re.compile(r"[^/?#]*@")  # a user, or a key and its secret, before the host


@dataclass(frozen=True)
class FoundTar:
    """`uri` is a path where it is on local disk; `stamp` changes when the file does."""

    uri: str
    size: int
    stamp: str


def find_tars(patterns: list[str]) -> list[FoundTar]:
    """Each once, by URI. Raises UserError for what is not there or can not be listed."""
    folders: dict[str, dict[str, Entry]] = {}
    found: dict[str, FoundTar] = {}
    for pattern in patterns:
        for name in _expanded(pattern):
            tars = _remote(name, folders) if _SCHEME.match(name) else _local(name)
            if not tars:
                raise UserError(f"no tar {name}{_of(pattern, name)}; check the path")
            found.update((tar.uri, tar) for tar in tars)
    return [found[uri] for uri in sorted(found)]


def _of(pattern: str, name: str) -> str:
    return "" if pattern == name else f", of {pattern}"


def _expanded(pattern: str) -> list[str]:
    """As WebDataset expands braces; a local file that is called so is meant itself."""
    if not _SCHEME.match(pattern) and Path(pattern).expanduser().exists():
        return [pattern]
    # Braces are expanded in memory, a whole range at a time.
    too_many = any(abs(int(last) - int(first)) >= _MOST for first, last in _RANGE.findall(pattern))
    try:
        names = [] if too_many else list(islice(braceexpand(pattern), _MOST + 1))
    except ValueError as error:
        raise UserError(f"{pattern}: {error}; write a range as {{0000..0099}}") from None
    if too_many or len(names) > _MOST:
        raise UserError(f"{pattern} names more than {_MOST:,} tars; check its braces")
    return names


def _local(name: str) -> list[FoundTar]:
    path = Path(name).expanduser().absolute()
    try:
        if path.is_dir():
            raise UserError(f"{name} is a folder; give its tars: '{name.rstrip('/')}/*.tar'")
        paths = [path] if path.exists() else [Path(each) for each in glob.glob(str(path), recursive=True)]
        stats = [(each, each.stat()) for each in paths if each.is_file()]
    except OSError as error:
        raise UserError(f"cannot look at {name}: {error.strerror}; make it readable") from None
    return [FoundTar(str(each), stat.st_size, f"{stat.st_size}-{stat.st_mtime_ns}") for each, stat in stats]


def _remote(uri: str, folders: dict[str, dict[str, Entry]]) -> list[FoundTar]:
    """By listing its folder, once for all tars in it."""
    if _SECRET.match(uri.partition("://")[2]):
        raise UserError("a tar's URI holds a key or a user name; give those in the environment (AWS_*)")
    storage, wanted = split_uri(uri)
    if _GLOB.search(storage.uri.partition("?")[0]):
        raise UserError(f"{uri}: only a file name may have * or [ under s3:// and gs://; write folders out, or {{a,b}}")
    if storage.uri not in folders:
        folders[storage.uri] = _listed(storage)
    files = folders[storage.uri]
    names = [wanted] if wanted in files else [name for name in files if fnmatchcase(name, wanted)]
    return [
        FoundTar(storage.child_uri(name), files[name].size, f"{files[name].size}-{files[name].changed}")
        for name in names
    ]


def _listed(storage: Storage) -> dict[str, Entry]:
    try:
        entries = list(storage.list(""))
    except (OSError, UserError) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0].partition(" as storage")[0]
        raise UserError(f"cannot list {storage.name}: {said}; give paths, or URIs of s3:// or gs://") from None
    return {entry.path.rpartition("/")[2]: entry for entry in entries if not entry.is_folder}
