import gzip
import struct

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import UserError
from pipeline.ingest.image import ImageRules, decode
from pipeline.ingest.invalid import InvalidImage
from pipeline.ingest.source import open_source, read_one

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 12, 9), dtype=np.uint8)
LABELS = bytes(n % 10 for n in range(20))


def write(root, split: str, form: str) -> str:
    """As MNIST's page describes the format: magic, sizes big-endian, then the bytes."""
    images = struct.pack(">4B3I", 0, 0, 8, 3, *PIXELS.shape) + PIXELS.tobytes()
    labels = struct.pack(">4BI", 0, 0, 8, 1, 20) + LABELS
    packed = gzip.compress if form.endswith(".gz") else bytes
    name = f"mnist/{split}-images{form.replace('N', '3')}"
    (root / name).write_bytes(packed(images))
    (root / f"mnist/{split}-labels{form.replace('N', '1')}").write_bytes(packed(labels))
    return name


@pytest.mark.parametrize("form", ["-idxN-ubyte", "-idxN-ubyte.gz", ".idxN-ubyte"])
def test_images_with_their_labels(root, form):
    name = write(root, "train", form)
    write(root, "t10k", form)
    folder, single = open_source(root.at("mnist")), open_source(root.at(name))
    items = list(folder.items())
    base = name.rpartition("/")[2]
    names = [base.replace("train", "t10k"), base]
    assert [(i.path, i.label) for i in items] == [(f"{n}#{k}", str(k % 10)) for n in names for k in range(20)]
    assert [(i.path, i.label) for i in single.items()] == [(i.path, i.label) for i in items[20:]]
    for item, data in zip(items, folder.read([item.path for item in items]), strict=True):
        pixels = PIXELS[int(item.path.rpartition("#")[2])]
        assert len(data) == item.size and data == b"P5\n9 12\n255\n" + pixels.tobytes()
    with Image.open(root / "x.pgm") if (root / "x.pgm").write_bytes(data) else None as image:
        assert np.array_equal(np.asarray(image), PIXELS[19])
    assert decode(read_one(single, f"{base}#3"), ImageRules(9, 1, "white")).width == 9
    assert {item.label for item in open_source(root.at("mnist"), "none").items()} == {None}


def test_images_without_labels(root):
    name = write(root, "train", "-idxN-ubyte")
    (root / "mnist/train-labels-idx1-ubyte").unlink()
    (root / name).rename(root / "mnist/digits")
    assert [item.label for item in open_source(root.at("mnist/digits")).items()] == [None] * 20


def test_files_that_do_not_fit_are_told(root):
    name = write(root, "train", "-idxN-ubyte")
    whole = (root / name).read_bytes()
    (root / "mnist/train-labels-idx1-ubyte").write_bytes(struct.pack(">4BI", 0, 0, 8, 1, 19) + LABELS[:19])
    with pytest.raises(UserError, match=r"train-labels-idx1-ubyte does not hold the labels of .*; copy both again"):
        list(open_source(root.at("mnist")).items())
    (root / "mnist/train-labels-idx1-ubyte").write_bytes(struct.pack(">4BI", 0, 0, 8, 1, 20) + LABELS[:19])
    with pytest.raises(UserError, match=r"train-labels-idx1-ubyte does not hold the labels of .*; copy both again"):
        list(open_source(root.at("mnist")).items())
    (root / name).write_bytes(whole[:-1])
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte is no whole IDX file of images; copy it again"):
        list(open_source(root.at(name)).items())
    (root / name).write_bytes(gzip.compress(whole)[:-20])
    with pytest.raises(UserError, match=r"cannot read .*train-images-idx3-ubyte.*; copy it again"):
        list(open_source(root.at("mnist")).items())


def test_an_image_that_is_no_longer_there(root):
    name = write(root, "train", "-idxN-ubyte")
    source = open_source(root.at(name))
    (found,) = source.read(["train-images-idx3-ubyte#20"])
    assert isinstance(found, InvalidImage) and found.reason == "truncated"
    (root / name).unlink()
    (found,) = source.read(["train-images-idx3-ubyte#2"])
    assert isinstance(found, InvalidImage) and found.reason == "unreadable"
