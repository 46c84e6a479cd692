"""The command that shows what was released, and why."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.command import run_command, working
from flows.console import Console
from flows.options import Json, StorageOption, existing

if TYPE_CHECKING:
    from pipeline.registry.history import Listed

_AT_A_GLANCE = ("frechet", "coverage", "memorised")
_MARKS = {True: "passed", False: "refused", None: "not asked"}


def releases(
    model: Annotated[str, typer.Argument(help="the model's name")],
    version: Annotated[int | None, typer.Option("--version", min=1, help="all decisions about this one")] = None,
    storage: StorageOption = None,
    as_json: Json = False,
) -> None:
    """Lists a model's versions, the newest first: aliases, figures, what was decided and why.

    Example: ganline releases mnist --version 2
    """

    def act(console: Console) -> None:
        with working(console, None, "releases"):
            from pipeline.registry.history import release_of, releases_of
            from pipeline.registry.server import client

            registry = client(existing(storage), create=False)
            if version is None:
                listed = releases_of(registry, model)
                values = {"model": model, "releases": [asdict(one) for one in listed]}
                lines = [_line(one) for one in listed] or [f"model {model} has no version"]
            else:
                one, decisions = release_of(registry, model, version)
                values, lines = {"model": model, **asdict(one), "decisions": decisions}, _whole(one, decisions)
        console.result(values, lines)

    run_command(act, as_json)


def _line(one: "Listed") -> str:
    parts = [
        f"version {one.version}{''.join(f', {alias}' for alias in one.aliases)}",
        one.created,
        *(f"{name} {_figure(one.figures[name])}" for name in _AT_A_GLANCE if name in one.figures),
        "not decided" if one.promoted is None else f"{'promoted' if one.promoted else 'refused'}: {one.reason}",
        *([f"rolled back {one.rolled_back}"] if one.rolled_back else []),
    ]
    return "; ".join(parts)


def _whole(one: "Listed", decisions: Sequence[dict[str, Any]]) -> list[str]:
    lines = [_line(one), f"run {one.run or '-'}, dataset {one.dataset[:12] or '-'}"]
    for decision in decisions:
        against = f", against version {decision['against']}" if decision.get("against") else ""
        lines += [
            f"{decision.get('at', decision['id'])} {_outcome(decision)} by {decision.get('by', '-')}{against}:"
            f" {decision.get('reason', '-')}",
            *(f"  {_MARKS[one['passed']]:<9} {one['rule']}: {one['said']}" for one in decision.get("checks", ())),
            *(f"  figure    {name} {_figure(value)}" for name, value in decision.get("figures", {}).items()),
        ]
    return lines


def _outcome(decision: dict[str, Any]) -> str:
    if "promoted" not in decision:
        return "unknown"
    if decision["rule"] == "rollback":
        return "rollback"
    return "promoted" if decision["promoted"] else "refused"


def _figure(value: float | str) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else value
