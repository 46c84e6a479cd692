"""What a Ray cluster's Prometheus is given of a run."""

from ganmodels.objective import SUMS
from pipeline.training.clock import FIGURES
from pipeline.training.prometheus.on_ray import METRICS, Gauges
from pipeline.training.step import NORMS

NOW_AND_THEN = ("augment_p", "diversity", "frechet", "kernel", "skipped_steps", "checkpoints_failed")


def test_each_figure_of_a_point_has_its_metric_and_each_metric_its_figure(monkeypatch):
    gauges, shown = Gauges("digits-1", "digits"), {}

    def keep(self, metric, description, value, **tags):
        assert description and (metric, *tags.values()) not in shown
        shown[metric, *tags.values()] = value

    with monkeypatch.context() as patch:
        patch.setattr(Gauges, "_set", keep)
        figures = [*SUMS, *NORMS, *FIGURES, "learning_rate", *NOW_AND_THEN]
        point = {"images": 640, "time": 9.0, "metrics": {name: float(at) for at, name in enumerate(figures)}}
        gauges.show(point)
    assert {metric for metric, *_ in shown} == {*METRICS}
    assert len(shown) == len(figures) + 2
    assert shown["ganline_images_seen",] == 640
    assert shown["ganline_loss", "generator"] == figures.index("loss_g")
    assert shown["ganline_penalty", "r1"] == figures.index("r1")
    assert shown["ganline_gradient_norm", "discriminator"] == figures.index("gradient_norm_d")


def test_ray_takes_them_again_and_again_with_or_without_a_cluster():
    gauges = Gauges("digits-1", "digits")
    for images in (64, 128):
        point = {"images": images, "time": 9.0, "metrics": {"loss_g": 1.0, "loss_d": 2.0, "new figure": 3.0}}
        gauges.show(point)
    assert all(name.replace("_", "").isalnum() for name in METRICS)
