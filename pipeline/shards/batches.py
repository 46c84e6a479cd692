"""Batches of a dataset version as a function of the step. Nothing is remembered, so resuming costs nothing."""

import itertools

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
        self._first, self._shards, self._rows = 0, np.empty((0, 0)), np.empty((0, 0))

    def __getitem__(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        if not 0 <= step - self._first < len(self._rows):
            self._look(step)
        at = step - self._first
        images, labels = self.reader.read(self._shards[at], self._rows[at], step)
        if self.mirror_seed is not None:
            count = len(labels) // len(self.streams)
            flipped = np.concatenate([mirrored(self.mirror_seed, step, stream, count) for stream in self.streams])
            images[flipped] = images[flipped, :, ::-1]
        return torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(labels)

    def _look(self, step: int) -> None:
        """Works out the rows of the steps to come, and has their shards fetched."""
        looks = [self.order.look(step, stream) for stream in self.streams]
        self._first = looks[0][0]
        self._shards, self._rows = (np.hstack(column) for column in zip(*(places for _, places in looks), strict=True))
        ahead = itertools.zip_longest(*(self.order.ahead(step, stream) for stream in self.streams))
        soonest = (shard for shards in ahead for shard in shards if shard is not None)
        self.reader.look_ahead(list(dict.fromkeys(soonest)))
