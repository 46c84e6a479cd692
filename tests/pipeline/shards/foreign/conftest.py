"""Tars that other tools wrote, and an indexing that needs no Ray."""

import io
import json
import subprocess
import tarfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from pipeline.shards.foreign import on_ray
from pipeline.shards.foreign.on_ray import Indexed, index_tars

CLASSES = ("ant", "bee", "cat")
GNU_TAR = ("gnu", "ustar", "pax")
WRITERS = ("webdataset", *GNU_TAR, "tarfile")

Members = dict[str, bytes]


@pytest.fixture(params=WRITERS)
def writer(request) -> str:
    return request.param


@pytest.fixture
def png() -> Callable[[np.ndarray], bytes]:
    def encode(pixels: np.ndarray, format: str = "PNG") -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format)
        return buffer.getvalue()

    return encode


@pytest.fixture
def members(pixels, png) -> Callable[..., Members]:
    """Of the samples with these numbers: each an image of that number, its class as text."""

    def make(numbers) -> Members:
        made = {}
        for number in numbers:
            made[f"{number:06}.cls"] = CLASSES[number % 3].encode()
            made[f"{number:06}.png"] = png(pixels(number))
        return made

    return make


@pytest.fixture
def write(tmp_path) -> Callable[..., Path]:
    """A tar of these members in their order, as one of WRITERS makes it."""

    def make(name: str, members: Members, writer: str = "tarfile") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if writer == "webdataset":
            samples: dict[str, dict] = {}
            for member, data in members.items():
                folder, slash, base = member.rpartition("/")
                key, _, part = base.partition(".")
                samples.setdefault(folder + slash + key, {})[part] = data
            with webdataset.ShardWriter(f"{path}.%d", verbose=0) as sink:
                for key, parts in samples.items():
                    sink.write({"__key__": key, **parts})
            Path(f"{path}.0").rename(path)
        elif writer in GNU_TAR:
            root = tmp_path / f"{name}.files"
            for member, data in members.items():
                (root / member).parent.mkdir(parents=True, exist_ok=True)
                (root / member).write_bytes(data)
            subprocess.run(["tar", f"--format={writer}", "-cf", path, *members], cwd=root, check=True)
        else:
            with tarfile.open(path, "w") as tar:
                for member, data in members.items():
                    info = tarfile.TarInfo(member)
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
        return path

    return make


@pytest.fixture
def index(storage, data, monkeypatch) -> Callable[..., Indexed]:
    """`index_tars` in this process, under the name `tars`."""
    monkeypatch.setattr(on_ray, "cluster", nullcontext)
    monkeypatch.setattr(on_ray, "run_tasks", lambda function, shared, each: (function(shared, one) for one in each))

    def run(*patterns: object, image: str | None = None, labels: str = "auto", **keys) -> Indexed:
        wanted = data("tars", **keys)
        return index_tars(storage, "tars", [str(each) for each in patterns], wanted, image=image, labels=labels)

    return run


@pytest.fixture
def as_json() -> Callable[..., bytes]:
    return lambda **values: json.dumps(values).encode()
