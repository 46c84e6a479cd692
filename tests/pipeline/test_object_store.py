"""A real S3 server, and a proxy before it that fails: what passes is survived, the rest ends soon and says why."""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from faulty_proxy import FAULTS
from hurry import within

from pipeline import storage as storage_module
from pipeline.errors import Unavailable, UserError
from pipeline.patience import Patience
from pipeline.storage import Storage

DATA = os.urandom(300_000)
LARGE = os.urandom(12_000_000)  # in two parts
QUICK = Patience(first_pause=0.01)

# Each in a folder of its name, with the request that is to fail: method, and a piece of its path and query.
OPERATIONS: dict[str, tuple[str, str, Callable[[Storage, str], bool]]] = {
    "read": ("GET", "/read/file", lambda storage, file: storage.read(file) == DATA),
    "range": ("GET", "/range/file", lambda storage, file: storage.read_range(file, 5, 1000) == DATA[5:1005]),
    "size": ("HEAD", "/size/file", lambda storage, file: storage.size(file) == len(DATA)),
    "exists": ("HEAD", "/exists/file", lambda storage, file: storage.exists(file)),
    "absent": ("GET", "absent%2Ffilenone", lambda storage, file: not storage.exists(f"{file}none")),
    "list": ("GET", "%2Flist%2F", lambda storage, file: [e.size for e in storage.list("list")] == [len(DATA)]),
    "begin": ("POST", "/begin/file?uploads", lambda storage, file: _written(storage, file, DATA[1:])),
    "part": ("PUT", "/part/file?partNumber", lambda storage, file: _written(storage, file, DATA[1:])),
    "second": ("PUT", "/second/file?partNumber=2", lambda storage, file: _written(storage, file, LARGE)),
    "complete": ("POST", "/complete/file?uploadId", lambda storage, file: _written(storage, file, DATA[1:])),
    "delete": ("DELETE", "/delete/file", lambda storage, file: _deleted(storage, file)),
    "folder": ("DELETE", "/folder/", lambda storage, file: _folder_deleted(storage, "folder")),
}
UPLOADS = ("begin", "part", "second", "complete")


def _written(storage, file, data):
    storage.write(file, data)
    return storage.read(file) == data


def _deleted(storage, file):
    storage.delete(file)
    return not storage.exists(file)


def _folder_deleted(storage, folder):
    storage.delete_folder(folder)
    return list(storage.list(folder)) == []


def _together(act, names):
    """What the SDK waits for at a fault is the longest part of a test, so all wait at once."""
    with ThreadPoolExecutor(len(names)) as threads:
        return dict(zip(names, threads.map(act, names), strict=True))


@pytest.fixture
def direct(s3_root) -> Storage:
    storage = Storage(s3_root)
    storage.write("folder/file", DATA)
    return storage


@pytest.fixture
def faulty(direct, faulty_root, proxy, monkeypatch) -> Storage:
    monkeypatch.setattr(storage_module, "_PATIENCE", QUICK)
    storage = Storage(faulty_root)
    assert storage.exists("folder/file")  # connected, and the proxy lets it through
    proxy.forget()
    return storage


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_passes_is_survived(direct, faulty, proxy, fault):
    for operation, (method, path, _) in OPERATIONS.items():
        direct.write(f"{operation}/file", DATA)
        # Amazon's SDK asks twice; it takes up to ten seconds to notice a stall.
        proxy.fail(fault, 1 if fault == "stall" else 3, method=method, path=path)
    began = time.monotonic()
    outcomes = _together(lambda name: OPERATIONS[name][2](faulty, f"{name}/file"), OPERATIONS)
    assert outcomes == dict.fromkeys(OPERATIONS, True)
    assert time.monotonic() - began < within(60)
    failed = [path for _, path in proxy.hit]
    assert all(any(piece in path for path in failed) for _, piece, _ in OPERATIONS.values())


@pytest.mark.parametrize("fault", ["cut", "short"])
def test_a_large_file_comes_whole(direct, faulty, proxy, fault):
    direct.write("large", LARGE)
    proxy.fail(fault, 2, method="GET", path="large")
    assert faulty.read("large") == LARGE
    assert faulty.read_range("large", 7_000_000, 4_000_000) == LARGE[7_000_000:11_000_000]


@pytest.mark.parametrize("end", [b"", *(bytes([byte]) for byte in (0, 10, 49, 0x5A, 0xA5, 255))])
def test_whatever_a_file_ends_with_a_short_answer_is_known(direct, faulty, proxy, end):
    # By a mark that it leaves standing in the last byte, which may be the file's own.
    for size in (0, 1, 20):
        data = DATA[:size] + end
        direct.write("small", data)
        assert faulty.read("small") == data
        proxy.fail("short", 2 if data else 0, method="GET", path="small")
        assert faulty.read("small") == data


def test_an_answer_that_lacks_its_last_byte_alone_is_known(direct, faulty, proxy):
    direct.write("two", b"ab")
    proxy.fail("short", -1, method="GET", path="two")  # half of it
    with pytest.raises(OSError, match="only a part of 2 bytes came"):
        faulty.read("two")


@pytest.mark.parametrize("fault", ["busy", "short"])
def test_what_does_not_pass_is_an_error_in_time_and_logged(faulty, proxy, fault, monkeypatch, caplog):
    monkeypatch.setattr(storage_module, "_PATIENCE", Patience(attempts=3, first_pause=0.01))
    proxy.fail(fault, -1, method="GET")
    began = time.monotonic()
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(
            OSError, match=r"^reading folder/file in s3://ganline/.* failed 3 times in \d+ s, at last with: "
        ),
    ):
        faulty.read("folder/file")
    assert time.monotonic() - began < within(10)
    assert proxy.count("GET") <= 3 * 3  # curl asks once more by itself where nothing at all came
    said = [record.getMessage() for record in caplog.records if record.name == "pipeline.patience"]
    assert [f"attempt {n} of 3" in line for n, line in enumerate(said, start=2)] == [True, True]


@pytest.mark.parametrize("fault", ["busy", "reset", "cut", "short", "lost"])
def test_an_upload_that_fails_for_good_leaves_what_was_there(direct, faulty, proxy, fault, monkeypatch):
    monkeypatch.setattr(storage_module, "_PATIENCE", Patience(attempts=2, first_pause=0.01))
    for stage in UPLOADS:
        method, path, _ = OPERATIONS[stage]
        proxy.fail(fault, -1, method=method, path=path)
        direct.write(f"old/{stage}/file", b"old")

    def write(case):
        folder, stage = case
        file, data = f"{folder}/{stage}/file", LARGE if stage == "second" else DATA
        before = b"old" if folder == "old" else None
        try:
            faulty.write(file, data)
        except OSError:
            found = direct.read(file) if direct.exists(file) else None
            # Whether it was published is not known where only the answer was lost.
            return found in ((before, data) if stage == "complete" else (before,))
        return fault == "short" and direct.read(file) == data  # that answer is not needed whole

    cases = [(folder, stage) for folder in ("old", "new") for stage in UPLOADS]
    assert _together(write, cases) == dict.fromkeys(cases, True)


def test_what_was_stored_is_looked_at(direct, faulty, proxy, caplog):
    proxy.fail("slow", method="HEAD", path="folder/new")
    threading.Timer(0.5, direct.write, ("folder/new", b"of somebody else")).start()
    faulty.write("folder/new", DATA)
    assert "16 of 300000 bytes were stored; attempt 2 of 8" in caplog.text
    assert direct.read("folder/new") == DATA


def test_ctrl_c_while_an_upload_begins_leaves_no_empty_file(direct, faulty, proxy):
    proxy.fail("slow", method="POST", path="new?uploads")
    threading.Timer(0.4, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        faulty.write("folder/new", DATA)
    assert proxy.hit
    assert direct.read("folder/new") == DATA  # it was under way, and is whole


@pytest.mark.parametrize("act", [
    lambda storage: storage.read("folder/none"),
    lambda storage: storage.read_range("folder/none", 0, 1),
    lambda storage: storage.size("folder/none"),
    lambda storage: storage.size("folder"),
])  # fmt: skip
def test_what_is_not_there_is_not_waited_for(faulty, proxy, act, caplog):
    with pytest.raises(FileNotFoundError):
        act(faulty)
    assert len(proxy.requests) <= 3 and not caplog.records


def test_a_range_past_the_end_is_not_waited_for(faulty, proxy, caplog):
    with pytest.raises(ValueError, match="has 300000 bytes: there are no 2 from byte 299999 on"):
        faulty.read_range("folder/file", 299_999, 2)
    assert faulty.read_range("folder/file", 299_999, 1) == DATA[-1:]
    assert faulty.read_range("folder/file", 300_000, 0) == b""
    assert not caplog.records


@pytest.mark.parametrize(("name", "value"), [("AWS_ACCESS_KEY_ID", "nobody"), ("AWS_SECRET_ACCESS_KEY", "wrong")])
def test_credentials_that_are_refused_are_not_tried_again(faulty_root, proxy, monkeypatch, name, value, caplog):
    monkeypatch.setenv(name, value)
    storage = Storage(faulty_root)
    for act in (storage.read, storage.exists, storage.delete, lambda path: list(storage.list(path))):
        with pytest.raises(OSError, match=r"ACCESS_DENIED|INVALID_ACCESS_KEY_ID|SIGNATURE_DOES_NOT_MATCH"):
            act("folder/file")
    with pytest.raises(UserError, match=r"cannot write to the storage root s3://.*; set GANLINE_STORAGE") as error:
        storage.prepare()
    assert not isinstance(error.value, Unavailable) and value not in str(error.value)
    assert len(proxy.requests) <= 8 and not caplog.records


def test_a_bucket_that_is_not_there_is_the_users_error_at_once(s3_root, caplog):
    with pytest.raises(UserError, match="NO_SUCH_BUCKET"):
        Storage(s3_root.replace("s3://ganline/", "s3://nosuchbucket/")).prepare()
    assert not caplog.records


def test_a_server_that_is_not_there_is_told_of_in_seconds_and_without_secrets(s3_root, s3_address, caplog):
    uri = s3_root.replace(s3_address, "127.0.0.1:1").replace("s3://", "s3://somebody:hushhush@")
    storage, began = Storage(uri), time.monotonic()
    with pytest.raises(Unavailable, match="cannot write to the storage root") as error:
        storage.prepare()
    assert time.monotonic() - began < within(20) and caplog.records
    for said in (str(error.value), repr(storage), storage.name, caplog.text):
        assert "hushhush" not in said


def test_a_uri_of_another_kind_is_refused_without_its_secrets():
    with pytest.raises(UserError, match=r"cannot use ftp://\*\*\*@host/x as storage") as error:
        Storage("ftp://somebody:hushhush@host/x").prepare()
    assert "hushhush" not in str(error.value)


def test_the_endpoint_may_come_from_the_environment(direct, s3_root, s3_address, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{s3_address}")
    assert Storage(s3_root.partition("?")[0] + "?region=us-east-1").read("folder/file") == DATA


def test_google_is_given_up_in_time_too(proxy, monkeypatch):
    monkeypatch.setattr(storage_module, "_PATIENCE", Patience(attempts=1))
    proxy.fail("busy", -1)
    place = f"gs://anonymous@bucket/x?scheme=http&endpoint_override={proxy.address}&retry_limit_seconds=1"
    with pytest.raises(OSError, match=r"failed 1 times in \d+ s, at last with: google"):
        Storage(place).read("file")


def test_patience_ends_by_time_as_well_as_by_number():
    tried = []

    def attempt():
        tried.append(time.monotonic())
        raise OSError("busy")

    with pytest.raises(OSError, match=r"^x failed \d+ times in \d+ s, at last with: busy$"):
        Patience(attempts=100, seconds=1.5, first_pause=0.1, longest_pause=0.2).call("x", attempt)
    assert 3 <= len(tried) <= 20 and tried[-1] - tried[0] <= within(1.6)
