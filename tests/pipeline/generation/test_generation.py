"""Many images as shards: the right ones, the same bytes however they came about, and never half a shard."""

import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset
from hurry import within
from PIL import Image
from torch.nn.modules.module import register_module_forward_pre_hook

import pipeline.generation.on_ray as stage
from ganmodels.networks import build_generator
from ganmodels.saving import to_bytes
from ganmodels.spec import NetworkSpec
from pipeline.errors import RunFailed, UserError
from pipeline.generation.order import Order
from pipeline.on_ray import Died, run_tasks
from pipeline.registry.generator import Generator
from pipeline.storage import Storage, sha256

pytestmark = pytest.mark.usefixtures("one_thread")

SPEC = NetworkSpec("dcgan", 16, 3, classes=3, z_dim=4, width=2, max_width=4)
NAMES = ("ant", "bee", "zebra çà 斑马")


@pytest.fixture(scope="module")
def generator() -> Generator:
    torch.manual_seed(0)
    network = build_generator(SPEC).eval()
    for weight in network.parameters():
        weight.data.normal_(0, 0.5)
    return Generator(network, SPEC, NAMES)


@pytest.fixture
def order(generator) -> Order:
    return Order("zoo", 3, generator.weights_sha256(), images=250, shard_images=70, seed=5)


@pytest.fixture
def out(tmp_path) -> Storage:
    return Storage(str(tmp_path / "out"))


@pytest.fixture
def in_process(monkeypatch) -> None:
    """Where not Ray is tested but what is written."""
    monkeypatch.setattr(stage, "cluster", nullcontext)
    monkeypatch.setattr(stage, "run_tasks", _one_by_one)


def _one_by_one(function, shared, each):
    return (function(shared, one) for one in each)


def _files(out: Storage) -> dict[str, bytes]:
    return {entry.path.strip("/"): out.read(entry.path.strip("/")) for entry in out.list("") if not entry.is_folder}


@pytest.mark.usefixtures("in_process")
def test_webdataset_reads_back_the_images_of_sample(out, order, generator, heard):
    done = stage.generate_shards(out, order, generator)
    assert (done.written, done.kept) == (4, 0)
    tars = sorted(map(str, out.local_path().glob("*.tar")))
    assert [Path(tar).name for tar in tars] == [f"images-{number:06}.tar" for number in range(4)]
    samples = list(webdataset.WebDataset(tars, shardshuffle=False).decode("rgb8"))
    assert [sample["__key__"] for sample in samples] == [f"{index:09}" for index in range(250)]
    np.testing.assert_array_equal([sample["png"] for sample in samples], generator.sample(250, 5))
    for index, sample in enumerate(samples):
        label = NAMES[index % 3]
        assert sample["json"] == {"index": index, "seed": 5, "label": label, "class": index % 3}
    assert heard.told == [("generate", done, 250) for done in (0, 70, 140, 210, 250)]

    with tarfile.open(tars[1]) as tar:
        members = tar.getmembers()
        assert {(one.mtime, one.uid, one.uname, len(one.pax_headers)) for one in members} == {(0, 0, "", 0)}
        picture = Image.open(io.BytesIO(tar.extractfile("000000071.png").read()))
    assert picture.text == {
        "Software": "Ganline", "ganline.model": "zoo", "ganline.version": "3", "ganline.seed": "5",
        "ganline.index": "71", "ganline.label": NAMES[2],
    }  # fmt: skip


@pytest.mark.usefixtures("in_process")
def test_shards_that_begin_amid_a_batch_need_no_pass_twice(out, order, generator):
    passes = []

    def count(module, _):
        if isinstance(module, type(generator.network)):
            passes.append(module)

    counting = register_module_forward_pre_hook(count)
    try:
        stage.generate_shards(out, order, generator)
    finally:
        counting.remove()
    # Batches of 64 that images 0 to 69, 70 to 139, 140 to 209 and 210 to 249 touch.
    assert len(passes) == 2 + 2 + 2 + 1


@pytest.mark.usefixtures("in_process")
def test_the_manifest_tells_of_every_shard_and_nothing_else_is_left(out, order, generator):
    stage.generate_shards(out, order, generator)
    manifest = out.read_json("manifest.json")
    assert {key: manifest[key] for key in ("model", "version", "seed", "images", "resolution", "channels")} == {
        "model": "zoo", "version": 3, "seed": 5, "images": 250, "resolution": 16, "channels": 3,
    }  # fmt: skip
    assert manifest["classes"] == list(NAMES) and manifest["weights_sha256"] == generator.weights_sha256()
    for shard in manifest["shards"]:
        data = out.read(shard["name"])
        assert (shard["bytes"], shard["sha256"]) == (len(data), sha256(data))
    assert [shard["images"] for shard in manifest["shards"]] == [70, 70, 70, 40]
    names = {shard["name"] for shard in manifest["shards"]}
    assert {path.name for path in out.local_path().iterdir()} == names | {"manifest.json", "generation.json"}


@pytest.mark.usefixtures("in_process")
def test_one_class_and_a_truncation(out, order, generator):
    stage.generate_shards(out, replace(order, images=3, label="bee", truncation=0.5), generator)
    samples = list(webdataset.WebDataset(str(out.local_path("images-000000.tar")), shardshuffle=False).decode("rgb8"))
    np.testing.assert_array_equal([one["png"] for one in samples], generator.sample(3, 5, 1, 0.5))
    assert {(one["json"]["label"], one["json"]["class"]) for one in samples} == {("bee", 1)}


@pytest.mark.usefixtures("in_process")
def test_a_generator_without_classes(out, order):
    spec = replace(SPEC, classes=0, channels=1)
    plain = Generator(build_generator(spec).eval(), spec)
    stage.generate_shards(out, replace(order, images=2), plain)
    samples = list(webdataset.WebDataset(str(out.local_path("images-000000.tar")), shardshuffle=False).decode("l8"))
    np.testing.assert_array_equal([one["png"] for one in samples], plain.sample(2, 5)[..., 0])
    assert samples[1]["json"] == {"index": 1, "seed": 5, "label": None, "class": None}


def test_the_same_bytes_from_one_worker_and_two_and_in_this_process(
    tmp_path, order, generator, ray_cluster, monkeypatch
):
    found = {}
    for name, run in {"two": run_tasks, "one": partial(run_tasks, at_once=1), "none": _one_by_one}.items():
        monkeypatch.setattr(stage, "run_tasks", run)
        stage.generate_shards(Storage(str(tmp_path / name)), order, generator)
        found[name] = _files(Storage(str(tmp_path / name)))
    assert found["one"] == found["two"] == found["none"]


@pytest.mark.parametrize("place", ["local", "s3"])
@pytest.mark.usefixtures("in_process")
def test_stopped_in_the_middle_it_goes_on_to_the_same_bytes(
    place, out, order, generator, monkeypatch, request, tmp_path
):
    there = out if place == "local" else Storage(request.getfixturevalue("s3_root"))
    whole = Storage(str(tmp_path / "whole"))
    stage.generate_shards(whole, order, generator)

    def cut_off(function, shared, each):
        for number, one in enumerate(each):
            if number == 2:
                raise KeyboardInterrupt
            yield function(shared, one)

    with monkeypatch.context() as patch:
        patch.setattr(stage, "run_tasks", cut_off)
        with pytest.raises(KeyboardInterrupt):
            stage.generate_shards(there, order, generator)
    assert sorted(_files(there)) == ["generation.json", "images-000000.tar", "images-000001.tar"]
    done = stage.generate_shards(there, order, generator)
    assert (done.written, done.kept) == (2, 2)
    assert _files(there) == _files(whole)
    assert not list(there.list("progress"))
    done = stage.generate_shards(there, order, generator)
    assert (done.written, done.kept) == (0, 4)


@pytest.mark.usefixtures("in_process")
def test_what_was_damaged_or_lost_meanwhile_is_made_again(out, order, generator):
    stage.generate_shards(out, order, generator)
    whole = _files(out)
    data = bytearray(whole["images-000001.tar"])
    data[1000] ^= 1
    out.write("images-000001.tar", data)
    out.delete("images-000002.tar")
    done = stage.generate_shards(out, order, generator)
    assert (done.written, done.kept) == (2, 2)
    assert _files(out) == whole
    out.write("manifest.json", b"{")
    stage.generate_shards(out, order, generator)
    assert _files(out) == whole


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"version": 4}, "version 3, not 4"),
        ({"model": "farm"}, "model zoo, not farm"),
        ({"seed": 6}, "seed 5, not 6"),
        ({"truncation": 0.5}, "truncation 1.0, not 0.5"),
        ({"label": "ant"}, "label None, not ant"),
        ({"images": 251}, "images 250, not 251"),
        ({"shard_images": 64}, "shard_images 70, not 64"),
        ({"weights_sha256": "0" * 64}, "weights_sha256"),
    ],
)
@pytest.mark.usefixtures("in_process")
def test_images_of_another_order_are_never_mixed_in(out, order, generator, change, says):
    stage.generate_shards(out, order, generator)
    before = _files(out)
    with pytest.raises(UserError, match=f"was begun with .*{says}.*zoo@3.*another --out") as error:
        stage.generate_shards(out, replace(order, **change), generator)
    assert "\n" not in str(error.value)
    assert _files(out) == before


@pytest.mark.parametrize("place", ["local", "s3"])
@pytest.mark.usefixtures("in_process")
def test_of_two_at_once_the_second_is_told_so_and_changes_nothing(
    place, out, order, generator, monkeypatch, request, heard
):
    there = out if place == "local" else Storage(request.getfixturevalue("s3_root"))
    said = []

    def second():
        try:
            stage.generate_shards(there, replace(order, seed=6), generator)
        except UserError as error:
            said.append(str(error))

    def with_a_second(function, shared, each):
        for number, one in enumerate(each):
            if number == 1:
                thread = threading.Thread(target=second)
                thread.start()
                thread.join()
            yield function(shared, one)

    monkeypatch.setattr(stage, "run_tasks", with_a_second)
    assert stage.generate_shards(there, order, generator).written == 4
    assert len(said) == 1 and "another process writes shards into" in said[0] and "another --out" in said[0]
    assert "\n" not in said[0]
    names = {shard["name"] for shard in there.read_json("manifest.json")["shards"]}
    assert set(_files(there)) == names | {"manifest.json", "generation.json"}
    assert stage.generate_shards(there, order, generator).kept == 4


@pytest.mark.usefixtures("in_process")
def test_a_damaged_word_of_whose_folder_it_is_is_told_in_one_line(out, order, generator):
    for broken in (b"{", b"[]"):
        out.write("generation.json", broken)
        with pytest.raises(UserError, match=r"generation\.json is damaged; give another --out"):
            stage.generate_shards(out, order, generator)


def test_a_task_that_dies_is_tried_again_and_then_given_up(out, order, generator, monkeypatch):
    deaths = []

    def dying(function, shared, each):
        for one in each:
            if one.number == 1 and len(deaths) < limit:
                deaths.append(one)
                yield Died(one)
            else:
                yield function(shared, one)

    monkeypatch.setattr(stage, "cluster", nullcontext)
    monkeypatch.setattr(stage, "run_tasks", dying)
    limit = 3
    with pytest.raises(RunFailed, match=r"70 images died 3 times.*lower --shard-images"):
        stage.generate_shards(out, order, generator)
    deaths, limit = [], 2
    assert stage.generate_shards(out, order, generator).written == 3


@pytest.mark.usefixtures("in_process")
def test_shards_that_are_not_where_they_were_written_to_are_missed(out, order, generator, monkeypatch):
    def elsewhere(function, shared, each):
        for one in each:
            yield function(shared, one)
            shared.out.delete("images-000001.tar")

    monkeypatch.setattr(stage, "run_tasks", elsewhere)
    with pytest.raises(RunFailed, match=r"images-000001\.tar was written, but .* all of them see"):
        stage.generate_shards(out, order, generator)
    assert not out.exists("manifest.json")


_DRIVER = """
import sys
from pathlib import Path
import torch
from ganmodels.saving import load_generator
from ganmodels.spec import NetworkSpec
from flows.command import not_lost
from pipeline.generation.on_ray import generate_shards
from pipeline.generation.order import Order
from pipeline.registry.generator import Generator
from pipeline.storage import Storage
import json
sys.unraisablehook = not_lost  # as the command has it: the signal may come while one of Ray's references goes
folder = Path(sys.argv[1])
values = json.loads((folder / "order.json").read_text())
spec = NetworkSpec.from_dict(values["spec"])
generator = Generator(load_generator(spec, (folder / "weights").read_bytes()), spec, tuple(values["names"]))
generate_shards(Storage(sys.argv[2]), Order(**values["order"]), generator)
"""


@pytest.mark.usefixtures("in_process")
def test_killed_and_interrupted_with_a_ray_of_its_own_it_goes_on(tmp_path, order, generator):
    order = replace(order, images=9_000, shard_images=150)
    out = Storage(str(tmp_path / "out"))
    (tmp_path / "weights").write_bytes(to_bytes(generator.network.state_dict()))
    values = {"spec": SPEC.to_dict(), "names": NAMES, "order": dataclasses.asdict(order)}
    (tmp_path / "order.json").write_text(json.dumps(values))
    for number in (signal.SIGKILL, signal.SIGINT):
        before = len(list(out.list("progress")))
        driver = _driver(tmp_path, out)
        deadline = time.monotonic() + within(30)
        while len(list(out.list("progress"))) < before + 2:  # it is at work by then
            assert driver.poll() is None and time.monotonic() < deadline, driver.communicate()[1].decode()
            time.sleep(0.01)
        driver.send_signal(number)
        _, said = driver.communicate(timeout=within(30))
        assert driver.returncode != 0 and not out.exists("manifest.json"), said.decode()
    assert not list(out.local_path().glob(".*.tmp"))
    there = {entry.path.strip("/") for entry in out.list("") if entry.path.endswith(".tar")}
    assert 4 <= len(there) < 60
    for name in there:  # none is half there
        with tarfile.open(out.local_path(name)) as tar:
            assert len(tar.getmembers()) == 300
    done = stage.generate_shards(out, order, generator)
    assert done.kept >= 4 and done.written + done.kept == 60
    for shard in out.read_json("manifest.json")["shards"]:
        assert sha256(out.read(shard["name"])) == shard["sha256"]


def _driver(folder: Path, out: Storage) -> subprocess.Popen:
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    return subprocess.Popen(
        [sys.executable, "-c", _DRIVER, str(folder), out.uri],
        env={**environment, "PYTHONPATH": os.pathsep.join(sys.path), "RAY_worker_niceness": "0"},
        start_new_session=True, stderr=subprocess.PIPE,
    )  # fmt: skip
