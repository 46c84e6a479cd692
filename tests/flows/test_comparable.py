"""What the gate compares: a figure with one of the same full name alone."""

import numpy as np

from flows import stages
from pipeline.evaluation.evaluate import Features
from pipeline.evaluation.report import EvaluationReport, Naming
from pipeline.shards.manifest import DatasetRef

DATASET = DatasetRef("digits", "5" * 64)


def measured(features: str, seed: int, generated: int = 40) -> stages.Evaluation:
    naming = Naming(DATASET, features, generated, held_out=50, training=50)
    figures = (naming.of_generator("frechet", 1.0, (0,)),)
    report = EvaluationReport(DATASET, "a" * 64, features, generated, 50, 50, (0,), figures)
    real, made = np.random.default_rng(0), np.random.default_rng(seed)
    return stages.Evaluation(
        report, Features(real.normal(size=(50, 4)), np.empty((0, 4)), (made.normal(size=(40, 4)),)), None
    )


def test_figures_of_other_features_or_counts_are_not_compared():
    """As many features of each image, so that nothing but their names tells them apart."""

    def against(champion: stages.Evaluation) -> tuple[float, float, float] | None:
        return stages._difference(measured("torchscript-0a@32px", 1), (champion.report, champion.features))

    assert against(measured("torchscript-0a@32px", 2)) is not None
    assert against(measured("torchscript-0b@32px", 2)) is None
    assert against(measured("torchscript-0a@64px", 2)) is None
    assert against(measured("torchscript-0a@32px", 2, generated=41)) is None
