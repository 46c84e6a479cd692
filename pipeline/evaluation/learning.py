"""Trains the classifier: the same images give the same weights, bit for bit on the same kind of CPU."""

import numpy as np
import torch
import torch.nn.functional as F

from ganmodels.randomness import generator, keyed_seed
from pipeline.evaluation.classifier import Classifier
from pipeline.evaluation.features import as_levels
from pipeline.evaluation.one_thread import one_thread
from pipeline.progress import Progress, report

_EPOCHS = 12
_FEWEST, _MOST = 12_000, 60_000  # images seen, whatever the epochs: 5 s, and 3 minutes at 64 pixels
_BATCH = 32
_RATE, _DECAY = 2e-3, 0.05  # of AdamW; the rate rises over the first fifth and then falls as a cosine
_SHIFT = 14  # an image is moved by up to a fourteenth of its side
_TOLD = 1024  # images between reports


@one_thread()
def learn_classes(images: np.ndarray, labels: np.ndarray, classes: int) -> Classifier:
    """Of uint8 images `(n, p, p, C)`, C 1 or 3, with labels `(n,)`, 0 to `classes - 1`. It is ready to be used."""
    total = min(max(_EPOCHS * len(images), _FEWEST), _MOST) // _BATCH * _BATCH
    network = _fresh(classes)
    search = torch.optim.AdamW(network.parameters(), _RATE, weight_decay=_DECAY)
    rate = torch.optim.lr_scheduler.OneCycleLR(search, _RATE, total_steps=total // _BATCH, pct_start=0.2)
    order = _order(len(images), total)
    wanted = torch.from_numpy(labels.astype(np.int64))
    for first in range(0, total, _BATCH):
        rows = order[first : first + _BATCH]
        loss = F.cross_entropy(network(_moved(as_input(as_levels(images[rows])), first)), wanted[rows])
        search.zero_grad()
        loss.backward()
        search.step()
        rate.step()
        done = first + _BATCH
        if done % _TOLD == 0 or done == total:
            report(Progress("learn", done, total, {"loss": float(loss.detach())}))
    return network.eval().requires_grad_(False)


def as_input(levels: torch.Tensor) -> torch.Tensor:
    """Float32 `(n, C, p, p)`, 0 to 255, C 1 or 3 -> `(n, 3, p, p)`, -1 to 1."""
    return (levels / 127.5 - 1).expand(-1, 3, -1, -1).contiguous()


def _fresh(classes: int) -> Classifier:
    with torch.random.fork_rng(devices=[]):  # whoever calls may be drawing too
        torch.manual_seed(keyed_seed("classifier", "weights"))
        return Classifier(classes)


def _order(images: int, total: int) -> np.ndarray:
    """The places `(total,)` of the images to see: every one once before any comes again."""
    epochs = range(-(-total // images))
    every = [torch.randperm(images, generator=generator("classifier", "order", epoch)) for epoch in epochs]
    return torch.cat(every)[:total].numpy()


def _moved(images: torch.Tensor, step: int) -> torch.Tensor:
    """Each image `(C, p, p)` of the batch by a few pixels of its own; what comes in at an edge repeats it."""
    n, channels, pixels, _ = images.shape
    most = pixels // _SHIFT
    padded = F.pad(images, (most,) * 4, mode="replicate")
    down, right = torch.randint(0, 2 * most + 1, (2, n), generator=generator("classifier", "shift", step))
    at = torch.arange(pixels)
    rows, columns = (down[:, None] + at)[:, None, :, None], (right[:, None] + at)[:, None, None, :]
    return padded[torch.arange(n)[:, None, None, None], torch.arange(channels)[:, None, None], rows, columns]
