"""How smoothly a generator's images change with its latents."""

from collections.abc import Callable

import numpy as np
import torch

from ganmodels.randomness import image_latents, uniforms
from pipeline.evaluation.arc import arc
from pipeline.evaluation.features import FeatureExtractor
from pipeline.evaluation.generated import BadGenerator
from pipeline.registry.generator import BATCH, Generator

EPSILON = 1e-4
HOW = f"between latents, epsilon {EPSILON:g}, squared distance of features, 1 % left out at each end"


def path_length(
    generator: Generator,
    paths: int,
    seed: int,
    labels: np.ndarray | None,
    extractor: FeatureExtractor,
    on_batch: Callable[[int], None],
) -> float:
    """The mean of `|f(t + epsilon) - f(t)|^2 / epsilon^2` at a point of each of `paths` paths between two latents.

    Karras et al. 2019, "A Style-Based Generator Architecture for GANs", section 4.1, in the latent space: along the
    arc between latents `2 i` and `2 i + 1` of this seed, both with `labels[i]`, by default class `i % classes`, as far
    as a uniform `t`. `f` are these features, of images that are not rounded to grey levels; there, VGG's weighted
    ones. Raises BadGenerator for NaN and infinities.
    """
    if labels is None and generator.spec.classes:  # no held-out image has a class that it knows
        labels = np.arange(paths) % generator.spec.classes
    z = image_latents(0, 2 * paths, generator.spec.z_dim, seed)
    where = uniforms(paths, "path_length", seed)[:, None]
    lengths = []
    for first in range(0, paths, BATCH):
        rows = slice(first, min(first + BATCH, paths))
        ends, t = z[2 * first : 2 * rows.stop], where[rows].double()
        shown = None if labels is None else labels[rows]
        sides = [_features(generator, arc(ends[0::2], ends[1::2], at), shown, extractor) for at in (t, t + EPSILON)]
        lengths.append(np.square(sides[1] - sides[0]).sum(axis=1) / EPSILON**2)
        on_batch(2 * len(t))
    found = np.concatenate(lengths)
    low, high = np.quantile(found, [0.01, 0.99])
    return float(found[(found >= low) & (found <= high)].mean())


@torch.inference_mode()
def _features(
    generator: Generator, z: torch.Tensor, labels: np.ndarray | None, extractor: FeatureExtractor
) -> np.ndarray:
    """Float64 `(n, d)`."""
    device = next((weight.device for weight in generator.network.parameters()), torch.device("cpu"))
    shown = None if labels is None else torch.from_numpy(labels).to(device)
    images = generator.network(z.float().to(device), shown, 1.0).float().cpu()
    if not torch.isfinite(images).all():
        raise BadGenerator("not_finite", "the generator's images are not finite between latents")
    return extractor.of_levels((images.clamp(-1, 1) + 1) * 127.5).astype(np.float64)
