"""Who computes features: this process alone, or other machines too."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pipeline.evaluation.generated import generated_features
from pipeline.evaluation.real import RealSide, extract


@dataclass(frozen=True)
class Workers:
    """`extract` takes what `real.extract` takes, `generate` what `generated_features` takes, and they give the same."""

    extract: Callable[..., RealSide]
    generate: Callable[..., np.ndarray]


HERE = Workers(extract, generated_features)
