"""torch's DataLoader, in this process and with others: the same batches, and the same record of what is skipped."""

import pytest
import torch
from torch.utils.data import DataLoader

from pipeline.shards.batches import StreamBatches
from pipeline.shards.damage import Skips, read_skips
from pipeline.shards.index import read_index
from pipeline.shards.on_ray import shard_images
from pipeline.shards.order import Order
from pipeline.shards.read import DatasetReader


@pytest.fixture
def dataset(storage, data, make_tree, tmp_path, without_ray):
    folder = make_tree(tmp_path / "images", {"ant": range(0, 40), "bee": range(40, 80)})
    return shard_images(storage, "pets", data(folder, held_out=0)).dataset


def batches(storage, dataset, workers: int, context: str | None) -> list[tuple[torch.Tensor, torch.Tensor]]:
    reader = DatasetReader(storage, dataset, "train", skips=Skips(storage, f"skips/{workers}{context}"))
    order = Order(reader.counts, batch=12, streams=4, window=2, seed=7)
    rows = StreamBatches(reader, order, range(4), mirror_seed=7)
    rows[0]  # opens maps and starts looking ahead before there are other processes
    loader = DataLoader(
        rows, batch_size=None, sampler=range(3, 15), num_workers=workers, multiprocessing_context=context
    )
    return [(images.clone(), labels.clone()) for images, labels in loader]


def test_batches_are_the_same_however_many_processes_read_them(storage, dataset):
    path = sorted(storage.local_path("datasets/pets/shards").glob("*.tar"))[0]
    index, spoilt = read_index(path.with_suffix(".parquet").read_bytes()), bytearray(path.read_bytes())
    for row in (2, 9):
        spoilt[int(index.offset[row]) + 200] ^= 1
    path.write_bytes(spoilt)
    alone = batches(storage, dataset, 0, None)
    assert len(alone) == 12
    met = {skip.key for skip in read_skips(storage, "skips/0None")}
    assert met == {index.keys[row].as_py() for row in (2, 9)}
    for workers, context in ((2, "fork"), (1, "spawn")):
        for (images, labels), (theirs, their_labels) in zip(
            alone, batches(storage, dataset, workers, context), strict=True
        ):
            assert torch.equal(images, theirs) and torch.equal(labels, their_labels)
            assert theirs.is_contiguous(memory_format=torch.channels_last)
        assert {skip.key for skip in read_skips(storage, f"skips/{workers}{context}")} == met
