import random
import subprocess
import sys
import zipfile

import pytest

from pipeline.errors import UserError
from pipeline.ingest.invalid import InvalidImage
from pipeline.ingest.source import open_source


def write(path, method=zipfile.ZIP_STORED, count=50) -> dict[str, bytes]:
    draws, files = random.Random(0), {}
    with zipfile.ZipFile(path, "w", method) as archive:
        for number in draws.sample(range(count), count):
            name, data = f"{number % 3}/{number:03}.png", draws.randbytes(3000) + b"\0" * 3000
            archive.writestr(name, data)
            files[name] = data
    return files


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_items_come_in_the_order_in_which_they_lie(root, method):
    files = write(root / "a.zip", method)
    source = open_source(root.at("a.zip"))
    items = list(source.items())
    assert [item.path for item in items] == list(files)
    assert list(source.read([item.path for item in items])) == list(files.values())


def test_an_item_has_another_stamp_when_its_bytes_are_others(root):
    write(root / "a.zip")
    before = {item.path: item for item in open_source(root.at("a.zip")).items()}
    with zipfile.ZipFile(root / "a.zip", "a") as archive:
        archive.writestr("3/new.png", b"1")
    data = bytearray((root / "a.zip").read_bytes())
    (root / "a.zip").write_bytes(data)
    after = {item.path: item for item in open_source(root.at("a.zip")).items()}
    assert set(after) - set(before) == {"3/new.png"} and all(after[path] == before[path] for path in before)


def test_a_damaged_member_is_one_invalid_image(root):
    files = write(root / "a.zip")
    data = bytearray((root / "a.zip").read_bytes())
    bad = next(iter(files))
    data[data.index(files[bad]) + 100] ^= 1
    (root / "a.zip").write_bytes(data)
    source = open_source(root.at("a.zip"))
    for item, found in zip(source.items(), source.read(list(files)), strict=True):
        assert (isinstance(found, InvalidImage) and found.reason == "corrupt") == (item.path == bad)


def test_what_the_zip_command_writes(root):
    for name in ("a/1.png", "b/ü.png"):
        (root / f"in/{name}").write_bytes(b"x" * 1000)
    command = [sys.executable, "-m", "zipfile", "-c", str(root / "a.zip"), str(root / "in/a"), str(root / "in/b")]
    subprocess.run(command, check=True)
    assert {item.path: item.label for item in open_source(root.at("a.zip")).items()} == {"a/1.png": "a", "b/ü.png": "b"}


def test_a_member_that_would_unpack_to_gigabytes_is_refused(root):
    with zipfile.ZipFile(root / "a.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("1.png", b"x")
    data = bytearray((root / "a.zip").read_bytes())
    at = data.index(b"PK\x01\x02")
    data[at + 24 : at + 28] = (3 << 30).to_bytes(4, "little")
    (root / "a.zip").write_bytes(data)
    (found,) = open_source(root.at("a.zip")).read(["1.png"])
    assert isinstance(found, InvalidImage) and found.reason == "too_large"


def test_an_encrypted_zip_is_told(root):
    write(root / "a.zip")
    data = bytearray((root / "a.zip").read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    (root / "a.zip").write_bytes(data)
    with pytest.raises(UserError, match=r"a\.zip is encrypted; unpack it into a folder"):
        list(open_source(root.at("a.zip")).items())
