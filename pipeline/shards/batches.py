"""Batches of a dataset version as a function of the step. Nothing is remembered, so resuming costs nothing."""

import numpy as np
import torch
from torch.utils.data import Dataset

from ganmodels.randomness import generator
from pipeline.shards.order import BatchOrder
from pipeline.shards.read import DatasetReader


def mirrored(seed: int, step: int, stream: int, rows: int) -> np.ndarray:
    """Which of a stream's rows are flipped left to right: half of them on average, the same at any world size."""
    return torch.randint(2, (rows,), generator=generator(seed, step, "mirror", stream)).numpy().astype(bool)


class StreamBatches(Dataset):
    """Maps a step to this rank's rows of that step's global batch: `(images, labels)` as torch tensors.

    Images are uint8 `(n, c, h, w)` in channels_last memory; the rows of stream `l` come before those of `l + 1`.
    `mirror_seed` flips rows by that seed; None flips none.
    """

    def __init__(self, reader: DatasetReader, order: BatchOrder, streams: range, mirror_seed: int | None = None):
        self.reader, self.order, self.streams, self.mirror_seed = reader, order, streams, mirror_seed
        self._looked = -1

    def __getitem__(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        look = step // self.order.steps_per_look
        if look != self._looked:
            self._looked = look
            ahead = [self.order.ahead(step, stream) for stream in self.streams]
            self.reader.look_ahead(list(dict.fromkeys(shard for shards in ahead for shard in shards)))
        places = [self.order.rows(step, stream) for stream in self.streams]
        shards, rows = (np.concatenate(column) for column in zip(*places, strict=True))
        images, labels = self.reader.read(shards, rows, step)
        if self.mirror_seed is not None:
            flips = [
                mirrored(self.mirror_seed, step, s, len(rows))
                for s, (_, rows) in zip(self.streams, places, strict=True)
            ]
            chosen = np.concatenate(flips)
            images[chosen] = images[chosen, :, ::-1]
        return torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(labels)
