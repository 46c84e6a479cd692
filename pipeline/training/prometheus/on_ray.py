"""A run's latest figures as Ray's metrics: each node's agent gives them to Prometheus, with `ray_` before the name.

Of an installation with no more than `ray[train]` the agents give nothing: a cluster has `ray[default]`.
"""

from collections.abc import Mapping
from typing import Any

from ray.util.metrics import Gauge

# Of a point of telemetry, figure by figure. What is measured of both networks is one metric with a tag, and so are the
# penalties.
_PLAIN = {
    "images_per_second": "over all ranks, since the point before",
    "data_wait_share": "of the time, waiting for data",
    "checkpoint_share": "of the time, copying for a checkpoint",
    "step_ms_p50": "milliseconds that half of the steps stay below",
    "step_ms_p95": "milliseconds that 95 of 100 steps stay below",
    "step_ms_max": "milliseconds of the longest step",
    "memory_mb": "MiB that the first rank has held at most",
    "learning_rate": "of the generator and the discriminator",
    "logit_real": "mean that the discriminator gives to images",
    "logit_fake": "mean that the discriminator gives to samples",
    "sign_real": "mean sign of the logits of images",
    "augment_p": "probability of an augmentation",
    "diversity": "of generated images, by pixels; 1 is that of real ones",
    "frechet": "distance to held-out images",
    "kernel": "distance to held-out images",
    "skipped_steps": "since the run began, for figures that were not finite",
    "checkpoints_failed": "since this start of the run",
}
_BY_NETWORK = {"loss": "mean", "gradient_norm": "mean"}
_NETWORKS = {"g": "generator", "d": "discriminator"}
_PENALTIES = ("r1", "r2", "gp")
_TAGS = ("run", "name")

# As Ray exports them they begin with `ray_`.
METRICS = (
    "ganline_images_seen",
    "ganline_last_point_time_seconds",
    *(f"ganline_{figure}" for figure in _PLAIN),
    *(f"ganline_{figure}" for figure in _BY_NETWORK),
    "ganline_penalty",
)


class Gauges:
    """Of the run that this process drives; `name` is the recipe's."""

    def __init__(self, run: str, name: str):
        self._tags = {"run": run, "name": name}
        self._gauges: dict[str, Gauge] = {}

    def show(self, point: Mapping[str, Any]) -> None:
        """A point of telemetry; figures that no metric is for are left out."""
        self._set("ganline_images_seen", "that training has come to", point["images"])
        self._set("ganline_last_point_time_seconds", "Unix time of the latest figures", point["time"])
        for figure, value in point["metrics"].items():
            kind, _, network = figure.rpartition("_")
            if figure in _PLAIN:
                self._set(f"ganline_{figure}", _PLAIN[figure], value)
            elif figure in _PENALTIES:
                self._set("ganline_penalty", "mean, unweighted", value, penalty=figure)
            elif kind in _BY_NETWORK and network in _NETWORKS:
                self._set(f"ganline_{kind}", _BY_NETWORK[kind], value, network=_NETWORKS[network])

    def _set(self, metric: str, description: str, value: float, **tags: str) -> None:
        if metric not in self._gauges:
            self._gauges[metric] = Gauge(metric, description, (*_TAGS, *tags))
        self._gauges[metric].set(value, {**self._tags, **tags})
