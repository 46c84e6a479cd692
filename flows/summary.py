"""A command's result, for scripts and for people."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from flows.console import shown_path
from pipeline.redact import redact
from pipeline.storage import Storage, default_uri

if TYPE_CHECKING:  # so that a command imports only what it runs
    from flows.forgetting import Outcome as Forgetting
    from flows.release import Outcome
    from flows.stages import Evaluation, Released, Training
    from pipeline.registry.lookup import Found
    from pipeline.shards.on_ray import Ingest
    from pipeline.shards.verify import Verification
    from pipeline.shards.version import Contents
    from pipeline.training.pruning import Pruning
    from pipeline.training.runs import Checkpoint, Run


_AT_A_GLANCE = ("frechet", "kernel", "precision", "recall")


def outcome_values(outcome: "Outcome") -> dict[str, Any]:
    values = training_values(outcome.training)
    return {
        "dataset": ingest_values(outcome.ingest),
        **values,
        "metrics": values["metrics"] | outcome.evaluation.metrics,
        "release": release_values(outcome.released),
    }


def release_values(released: "Released") -> dict[str, Any]:
    names = ("model", "version", "promoted", "reason")
    return {name: getattr(released.release, name) for name in names} | {"reused": released.reused}


def outcome_lines(outcome: "Outcome", place: Storage) -> list[str]:
    released = outcome.released.release
    reference = f"{released.model}@{released.alias or released.version}"
    return [
        *ingest_lines(outcome.ingest, place),
        *training_lines(outcome.training, place),
        measured_line(outcome.evaluation),
        release_line(outcome.released),
        *([f"page    {_shown(place, outcome.released.page)}"] if outcome.released.page else []),
        f"now try ganline generate {reference} --out {released.model}.png{_storage_flag(place)}",
    ]


def release_line(released: "Released") -> str:
    one = released.release
    before = " (decided before; nothing was released anew)" if released.reused else ""
    return f"release {one.model} version {one.version}, {one.alias or 'not promoted'}: {one.reason}{before}"


def measured_line(evaluation: "Evaluation") -> str:
    """The figures at a glance, each with its floor in brackets; `ganline evaluate` has their full names."""
    report = evaluation.report
    if report is None:
        return f"figures none: {evaluation.problem or 'too few held-out images'}"
    values = report.metrics
    told = ", ".join(f"{key} {values[key]:.3g} ({values[f'floor_{key}']:.3g})" for key in _AT_A_GLANCE)
    seeds = ", ".join(map(str, report.seeds))
    return (
        f"figures {told}; in brackets the training images' own; {report.features},"
        f" {report.generated:,} generated for each of seeds {seeds} vs {report.held_out:,} held out"
    )


def figure_lines(evaluation: "Evaluation") -> list[str]:
    """Each figure by its full name, the floors last."""
    if evaluation.report is None:
        return [f"figures none: {evaluation.problem or 'too few held-out images'}"]
    return [f"figure  {figure.value:.4g} {figure.name}" for figure in evaluation.report.figures]


def _storage_flag(place: Storage) -> str:
    """What a later command needs to find this storage root."""
    return "" if place.uri == Storage(default_uri()).uri else f" --storage {place.name}"


def _shown(place: Storage, path: str) -> str:
    return shown_path(place.local_path(path)) if place.is_local else redact(place.child_uri(path))


def ingest_values(ingest: "Ingest") -> dict[str, Any]:
    return contents_values(ingest, shards_written=ingest.shards_written, shards_reused=ingest.shards_reused)


def ingest_line(ingest: "Ingest") -> str:
    return contents_line(ingest, f"; {ingest.shards_written} shards written, {ingest.shards_reused} reused")


def contents_values(contents: "Contents", **more: int) -> dict[str, Any]:
    return {
        "name": contents.dataset.name,
        "digest": contents.dataset.digest,
        "samples": sum(contents.samples.values()),
        "held_out": contents.samples["held_out"],
        "classes": contents.classes,
        **more,
        "quarantined": sum(contents.quarantined.values()),
        "quarantined_by_reason": contents.quarantined,
        "duplicates": contents.duplicates,
    }


def contents_line(contents: "Contents", more: str) -> str:
    classes = f", {len(contents.classes)} classes" if contents.classes else ""
    quarantined = "".join(f", {count:,} quarantined as {reason}" for reason, count in contents.quarantined.items())
    duplicates = f", {contents.duplicates:,} duplicates left out" if contents.duplicates else ""
    return (
        f"dataset {contents.dataset.name} {contents.dataset.digest[:12]}: {sum(contents.samples.values()):,} images"
        f"{classes}, {contents.samples['held_out']:,} held out{more}{quarantined}{duplicates}"
    )


def ingest_lines(ingest: "Ingest", place: Storage) -> list[str]:
    """With where the version's report lies, if it has one."""
    page = f"{ingest.dataset.folder}/report/index.html"
    return [ingest_line(ingest), *([f"report  {_shown(place, page)}"] if place.exists(page) else [])]


def training_values(training: "Training") -> dict[str, Any]:
    return {
        "run": {
            "id": training.run,
            "mlflow_run_id": training.mlflow_run,
            "steps": training.checkpoint.step,
            "images": training.checkpoint.images,
            "resumed_from": training.resumed_from,
            "reused": training.reused,
            "forked_from": training.forked_from,
            "best_images": training.candidate.images,
            "warnings": training.warnings,
        },
        "metrics": training.metrics,
    }


def training_lines(training: "Training", place: Storage) -> list[str]:
    resumed = f", resumed from image {training.resumed_from:,}" if training.resumed_from else ""
    if training.reused:
        resumed = ", finished before; no Ray started, no MLflow run made"
    origin = training.forked_from
    forked = f", forked from {origin['run']}@{origin['step']}" if origin else ""
    lines = [f"run     {training.run}: {training.checkpoint.images:,} images{resumed}{forked}"]
    if training.candidate.images != training.checkpoint.images:
        lines.append(f"best    at {training.candidate.images:,} images")
    lines += [f"warning {line}" for line in training.warnings.values()]
    grids = [entry.path for entry in place.list(f"runs/{training.run}/grids")]
    if grids:
        lines.append(f"grid    {_shown(place, grids[-1])}")
    return lines


def found_values(found: "Found") -> dict[str, Any]:
    names = ("model", "version", "alias", "run_id", "dataset", "config", "metrics", "uri", "as_of", "stale")
    return {name: getattr(found, name) for name in names}


def found_lines(found: "Found") -> list[str]:
    values = found_values(found)
    metrics = ", ".join(f"{name} {value:.4g}" for name, value in values["metrics"].items())
    return [f"{name:<8} {value}" for name, value in {**values, "metrics": metrics}.items()]


def verification_lines(checked: "Verification") -> list[str]:
    lines = [
        f"shard {problem.shard or '-'} byte {'-' if problem.offset is None else problem.offset}"
        f" key {problem.key or '-'}: {problem.what}"
        for problem in checked.problems
    ]
    total = f"{checked.shards} shards, {checked.samples:,} images, {checked.bytes:,} bytes checked"
    found = f"{len(lines)} problems" if lines else "no problem"
    return [*lines, f"{checked.dataset.name} {checked.dataset.digest[:12]}: {total}; {found}"]


def forgetting_values(outcome: "Forgetting") -> dict[str, Any]:
    names = ("done", "name", "keys", "stored", "shards", "versions", "pages_left")
    return {name: getattr(outcome, name) for name in names} | {"releases": [asdict(one) for one in outcome.releases]}


def forgetting_lines(outcome: "Forgetting") -> list[str]:
    lines = [
        f"release {one.model} version {one.version}{''.join(f', {alias}' for alias in one.aliases)}:"
        f" trained on {outcome.name} {one.dataset[:12]}, which had them"
        for one in outcome.releases
    ]
    if outcome.done:
        lines += [f"version {old[:12]} is now {new[:12]}" for old, new in outcome.versions.items()]
    lines += [f"not deleted, and it may show them: {page}" for page in outcome.pages_left]
    total = f"{outcome.stored} of {outcome.keys} images in {outcome.shards} shards and {len(outcome.versions)} versions"
    said = f"{outcome.name}: removed {total}" if outcome.done else f"{outcome.name}: would remove {total}; do it: --yes"
    return [*lines, said]


_OF_A_RUN = ("frechet", "loss_g", "loss_d")
_MEGABYTE = 1e6


def run_values(runs: "Sequence[Run]") -> list[dict[str, Any]]:
    told = {"wanted": "images_wanted", "figures": "metrics"}
    return [{told.get(name, name): value for name, value in asdict(run).items()} for run in runs]


def run_lines(runs: "Sequence[Run]", place: Storage) -> list[str]:
    if not runs:
        return [f"no run in {place.name} yet; `ganline run mnist` makes one"]
    width = max(len(run.id) for run in runs)
    return [f"{run.id:<{width}} {_run_line(run)}" for run in runs]


def _run_line(run: "Run") -> str:
    wanted = "" if run.wanted is None else f" of {run.wanted:,}"
    dataset = f" of {run.dataset['name']} {run.dataset['digest'][:12]}" if run.dataset else ""
    parts = [
        f"{run.state:<8} {run.images:,}{wanted} images{dataset}",
        f"{run.checkpoints} checkpoints",
        megabytes(run.bytes),
        *(f"{name} {run.figures[name]:.3g}" for name in _OF_A_RUN if name in run.figures),
        *([f"forked from {run.forked_from['run']}@{run.forked_from['step']}"] if run.forked_from else []),
        *([run.reason] if run.reason else []),
    ]
    return ", ".join(parts)


def checkpoint_values(checkpoints: "Sequence[Checkpoint]", released: Mapping[str, str] | None) -> list[dict[str, Any]]:
    """With what keeps each; `released` are checkpoints by path, None where that is not known."""
    values = [asdict(one) for one in checkpoints]
    for value in values:
        if released and value["path"] in released:
            value["reasons"].append(f"released as {released[value['path']]}")
        elif value["marked"] and released is None:
            value["reasons"].append("a release may name it")
    return values


def checkpoint_lines(checkpoints: Sequence[dict[str, Any]], unfinished: Sequence[str]) -> list[str]:
    lines = []
    for one in checkpoints:
        figures = "".join(f", {name} {value:.4g}" for name, value in one["metrics"].items())
        kept = "; ".join(one["reasons"]) or "nothing: `ganline runs prune` would delete it"
        lines.append(
            f"step {one['step']:,}, {one['images']:,} images, attempt {one['attempt']}, {megabytes(one['bytes'])}"
            f"{figures}; kept by: {kept}"
        )
    return [*lines, *(f"half written: {path}" for path in unfinished)]


def pruning_values(pruned: "Sequence[Pruning]", done: bool) -> dict[str, Any]:
    return {"done": done, "bytes": sum(one.bytes for one in pruned), "runs": [asdict(one) for one in pruned]}


def pruning_lines(pruned: "Sequence[Pruning]", done: bool) -> list[str]:
    lines = []
    for one in pruned:
        if one.whole:
            lines.append(f"run {one.run}, whole: {megabytes(one.bytes)}")
        else:
            lines += [f"checkpoint {path}" for path in one.checkpoints]
            lines += [f"half-written checkpoint {path}" for path in one.unfinished]
        if one.kept:
            lines.append(f"{'the rest of ' if one.bytes else ''}run {one.run} stays: {one.kept}")
    total = megabytes(sum(one.bytes for one in pruned))
    what = (
        f"{sum(one.whole for one in pruned)} runs and {sum(len(one.checkpoints) for one in pruned)} checkpoints,"
        f" {sum(len(one.unfinished) for one in pruned)} half-written ones: {total}"
    )
    return [*lines, f"deleted {what}" if done else f"would delete {what}; do it: --yes"]


def megabytes(count: int) -> str:
    return f"{count / _MEGABYTE:,.1f} MB"
