import io

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import UserError
from pipeline.ingest.invalid import InvalidImage
from pipeline.ingest.source import open_source

PIXELS = np.random.default_rng(0).integers(0, 256, (30, 32, 32, 3), dtype=np.uint8)
NAMES = ["airplane", "automobile", "bird"]


def write(root, *, names: bool) -> None:
    """As CIFAR-10's page describes the format: a label byte, then 1024 reds, 1024 greens, 1024 blues, by rows."""
    for file, numbers in (("data_batch_1", range(0, 20)), ("test_batch", range(20, 30))):
        records = []
        for n in numbers:
            red, green, blue = (PIXELS[n, :, :, channel].reshape(1024).tobytes() for channel in range(3))
            records.append(bytes([n % 3]) + red + green + blue)
        (root / f"cifar-10-batches-bin/{file}.bin").write_bytes(b"".join(records))
    (root / "cifar-10-batches-bin/readme.html").write_text("<html>")
    if names:
        (root / "cifar-10-batches-bin/batches.meta.txt").write_text("\n".join(NAMES) + "\n\n")


@pytest.mark.parametrize("names", [True, False])
def test_records_are_images_with_labels(root, names):
    write(root, names=names)
    source = open_source(root.at("cifar-10-batches-bin"))
    items = list(source.items())
    assert [item.path for item in items] == [
        *(f"data_batch_1.bin#{n}" for n in range(20)),
        *(f"test_batch.bin#{n}" for n in range(10)),
    ]
    assert [item.label for item in items] == [NAMES[n % 3] if names else str(n % 3) for n in range(30)]
    for n, data in enumerate(source.read([item.path for item in items])):
        assert len(data) == items[n].size
        with Image.open(io.BytesIO(data)) as image:
            assert image.format == "PPM" and np.array_equal(np.asarray(image), PIXELS[n])
    single = open_source(root.at("cifar-10-batches-bin/test_batch.bin"))
    assert [(i.path, i.label) for i in single.items()] == [(i.path, i.label) for i in items[20:]]


def test_files_that_do_not_fit_are_told(root):
    write(root, names=True)
    (root / "cifar-10-batches-bin/batches.meta.txt").write_text("airplane\nautomobile\n")
    with pytest.raises(UserError, match=r"record 2 of .*data_batch_1.bin is of class 2, which batches.meta.txt does"):
        list(open_source(root.at("cifar-10-batches-bin")).items())
    with open(root / "cifar-10-batches-bin/data_batch_1.bin", "ab") as file:
        file.write(b"x")
    with pytest.raises(UserError, match=r"data_batch_1.bin is cut: 61461 bytes are no multiple of 3073; copy it again"):
        list(open_source(root.at("cifar-10-batches-bin")).items())


def test_a_record_that_is_no_longer_there(root):
    write(root, names=True)
    source = open_source(root.at("cifar-10-batches-bin"))
    (found,) = source.read(["test_batch.bin#10"])
    assert isinstance(found, InvalidImage) and found.reason == "truncated"
    (found,) = source.read(["data_batch_5.bin#10"])
    assert isinstance(found, InvalidImage) and found.reason == "unreadable"
