"""A report's figures as rows of a table, each with what belongs beside it."""

from dataclasses import dataclass

from pipeline.evaluation.report import EvaluationReport

_FLOOR = "floor_"
_BESIDE = ("_low", "_high", "_standard_error")  # they stand beside the figure that they are about


@dataclass(frozen=True)
class Row:
    """`within` tells how sure the value is, in words; `floor` is the training images', `champion` the champion's.

    None: there is none. `otherwise`: the champion's was measured otherwise, and so is not to be compared.
    """

    key: str
    name: str
    value: float
    within: str | None
    floor: float | None
    champion: float | None
    otherwise: bool


def rows(report: EvaluationReport, champion: EvaluationReport | None) -> list[Row]:
    """In the report's order. The champion's figure is only shown where its full name is the same."""
    values = report.metrics
    theirs = {figure.name: figure.value for figure in champion.figures} if champion else {}
    return [
        Row(
            key=figure.key,
            name=figure.name,
            value=figure.value,
            within=_within(values, figure.key),
            floor=values.get(_FLOOR + figure.key),
            champion=theirs.get(figure.name),
            otherwise=bool(theirs) and figure.name not in theirs,
        )
        for figure in report.figures
        if not figure.key.startswith(_FLOOR) and not _is_beside(values, figure.key)
    ]


def _is_beside(values: dict[str, float], key: str) -> bool:
    return any(key.endswith(end) and key.removesuffix(end) in values for end in _BESIDE)


def _within(values: dict[str, float], key: str) -> str | None:
    low, high, error = (values.get(key + end) for end in _BESIDE)
    if low is not None and high is not None:
        return f"{low:.4g} to {high:.4g}"
    return None if error is None else f"\N{PLUS-MINUS SIGN} {error:.2g}"
