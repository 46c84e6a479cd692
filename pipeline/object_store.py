"""What pyarrow leaves undone on S3 and GCS: bounds on how long it tries, whole reads, whole or no uploads."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from pyarrow import NativeFile, fs

# The SDKs' own, for a single request; what goes on longer is ours, and is logged.
_S3_ATTEMPTS = 2
_GCS_SECONDS = 10
_MARKS = b"\xa5", b"\x5a"


def connect(uri: str) -> tuple[fs.FileSystem, str]:
    """A file system and the path in it, as `FileSystem.from_uri` has it; raises what that does."""
    filesystem, base = fs.FileSystem.from_uri(_bounded_uri(uri))
    return (_bounded(filesystem) if isinstance(filesystem, fs.S3FileSystem) else filesystem), base


def _bounded_uri(uri: str) -> str:
    """Google's own retries would go on for a quarter of an hour."""
    if not uri.startswith(("gs://", "gcs://")) or "retry_limit_seconds=" in uri:
        return uri
    return f"{uri}{'&' if '?' in uri else '?'}retry_limit_seconds={_GCS_SECONDS}"


def _bounded(filesystem: fs.S3FileSystem) -> fs.S3FileSystem:
    """S3 as a URI opens it would be asked thirty times; a URI can not say otherwise."""
    _, (options,) = filesystem.__reduce__()
    return fs.S3FileSystem(**{**options, "retry_strategy": fs.AwsStandardS3RetryStrategy(max_attempts=_S3_ATTEMPTS)})


def read_whole(filesystem: fs.FileSystem, place: str, offset: int, size: int | None) -> bytes:
    """`size` bytes from `offset` on, None for all; OSError if not all of them came, ValueError if there are less."""
    with filesystem.open_input_file(place) as file:
        return whole(file, place, offset, file.size() - offset if size is None else size)


def read_ranges(filesystem: fs.FileSystem, place: str, ranges: Iterable[tuple[int, int]]) -> list[bytes]:
    """`read_whole` of each (offset, size), the file being opened once."""
    with filesystem.open_input_file(place) as file:
        return [whole(file, place, offset, size) for offset, size in ranges]


def whole(file: NativeFile, place: str, offset: int, size: int) -> bytes:
    """Of an open file; OSError if not all of the bytes came, ValueError if there are less."""
    if offset + size > file.size():
        raise ValueError(f"{place} has {file.size()} bytes: there are no {size} from byte {offset} on")
    # Of an answer from S3 that ends too soon pyarrow says that all of it came, and leaves the rest of the
    # buffer as it was: with a mark in its last byte. A file that ends like one mark ends not like the other.
    data = bytearray(size)
    for mark in _MARKS:
        data[-1:] = mark if size else b""
        file.seek(offset)
        if file.readinto(data) == size and (size == 0 or data[-1:] != mark):
            return bytes(data)
    raise OSError(f"only a part of {size} bytes came")


def upload(filesystem: fs.FileSystem, place: str, data: bytes | memoryview) -> None:
    """Raises OSError if the store does not say that it holds as many bytes afterwards."""
    # An open stream publishes what it holds when it is dropped, an empty file at worst. So nothing may come
    # between opening and closing it, and Ctrl-C and SIGTERM come to the main thread alone.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(_publish, filesystem, place, data).result()
    stored = filesystem.get_file_info(place).size
    if stored != len(data):
        raise OSError(f"{stored} of {len(data)} bytes were stored")


def _publish(filesystem: fs.FileSystem, place: str, data: bytes | memoryview) -> None:
    with filesystem.open_output_stream(place) as stream:
        stream.write(data)
