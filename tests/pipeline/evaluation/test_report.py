import json

import pytest

from pipeline.evaluation.report import EvaluationReport, Figure, Naming
from pipeline.shards.manifest import DatasetRef

DATASET = DatasetRef("mnist", "5a64401d10d8" + "0" * 52)
NAMING = Naming(DATASET, "efficientnet-lite0@64px-bicubic-aa", generated=2000, held_out=2103, training=2103)


def a_report() -> EvaluationReport:
    figures = (NAMING.of_generator("frechet", 12.3, (0, 1)), NAMING.of_floor("frechet", 4.5))
    return EvaluationReport(DATASET, "a" * 64, NAMING.features, 2000, 2103, 2103, (0, 1), figures)


def test_a_figures_name_says_all_that_it_depends_on():
    mean, floor = a_report().figures
    shared = "[efficientnet-lite0@64px-bicubic-aa, "
    assert mean.name == f"frechet{shared}2000 generated vs 2103 held out, mean of seeds 0, 1, mnist 5a64401d10d8]"
    assert floor.name == f"floor_frechet{shared}2103 training vs 2103 held out, mnist 5a64401d10d8]"
    one = NAMING.of_generator("frechet_seed_1", 12.0, (1,))
    assert one.name == f"frechet_seed_1{shared}2000 generated vs 2103 held out, seed 1, mnist 5a64401d10d8]"
    how = NAMING.of_generator("coverage", 0.5, (1,), "k 5").name
    assert how == f"coverage[k 5, {shared[1:]}2000 generated vs 2103 held out, seed 1, mnist 5a64401d10d8]"
    assert a_report().metrics == {"frechet": 12.3, "floor_frechet": 4.5}


def test_it_survives_json_with_its_digest():
    report = a_report()
    again = EvaluationReport.from_dict(json.loads(json.dumps(report.to_dict())))
    assert again == report
    assert again.digest == report.digest
    other = EvaluationReport(**{**vars(report), "figures": (Figure("frechet[...]", 12.4),)})
    assert other.digest != report.digest


@pytest.mark.parametrize(
    "change",
    [{"schema": 2}, {"figures": [{"name": "x"}]}, {"other": 1}, {"per_class": [{"name": "x"}]}, {"dataset": None}],
)
def test_anything_else_is_refused(change):
    with pytest.raises(ValueError, match="not an evaluation report"):
        EvaluationReport.from_dict({**a_report().to_dict(), **change})
