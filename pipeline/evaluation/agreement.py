"""Whether a conditional generator's images show what their labels say: a classifier trained on the dataset's own."""

from dataclasses import dataclass

import numpy as np
import torch

from pipeline.evaluation.one_thread import one_thread

_DECAY = 1e-3  # times the squared weights, beside the mean loss: features often outnumber the images
_ITERATIONS = 100


@dataclass(frozen=True)
class LabelReader:
    """A linear classifier of features: standardised by `mean` and `scale` `(d,)`, then times `weight` `(d + 1, c)`."""

    mean: np.ndarray
    scale: np.ndarray
    weight: np.ndarray

    def read(self, features: np.ndarray) -> np.ndarray:
        """The likeliest label of each row of features `(n, d)`: `(n,)`."""
        rows = (features - self.mean) / self.scale
        return (rows @ self.weight[:-1] + self.weight[-1]).argmax(axis=1)


@one_thread()
def learn_labels(features: np.ndarray, labels: np.ndarray) -> LabelReader:
    """Multinomial logistic regression of labels `(n,)`, 0 and up, on features `(n, d)`; the same for the same rows."""
    mean = features.mean(axis=0)
    scale = np.maximum(features.std(axis=0), 1e-6)
    rows = torch.from_numpy(((features - mean) / scale).astype(np.float32))
    rows = torch.cat([rows, torch.ones(len(rows), 1)], dim=1)
    wanted = torch.from_numpy(labels.astype(np.int64))
    weight = torch.zeros(rows.shape[1], int(wanted.max()) + 1, requires_grad=True)
    search = torch.optim.LBFGS([weight], max_iter=_ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        search.zero_grad()
        value = torch.nn.functional.cross_entropy(rows @ weight, wanted) + _DECAY * weight[:-1].square().sum()
        value.backward()
        return value

    search.step(loss)
    return LabelReader(mean, scale, weight.detach().numpy())
