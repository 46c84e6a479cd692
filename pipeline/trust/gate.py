"""Whether a dataset version may be trained on: judged against the last one that was let through.

    <storage>/datasets/<name>/accepted.json      the version that was let through last

What was refused is compared with that same version again the next time, not with itself.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from pipeline.config import DataGate
from pipeline.errors import UserError
from pipeline.shards.manifest import DatasetRef, accepted_path, load_manifest
from pipeline.storage import Storage
from pipeline.trust.tables import open_tables

_SHOWN = 8


@dataclass(frozen=True)
class Profile:
    """What the gate looks at. `files` counts the source's files, `quarantined` those of them that were refused.

    `classes` are those that have images; `widths` and `heights` say how many kept source images have each
    number of pixels, and are empty for a version that did not record them.
    """

    digest: str
    samples: int
    files: int
    quarantined: int
    classes: tuple[str, ...]
    widths: Mapping[int, int]
    heights: Mapping[int, int]

    @property
    def quarantined_share(self) -> float:
        return self.quarantined / self.files if self.files else 0.0


@dataclass(frozen=True)
class Finding:
    """A limit that is broken: its key in `data.gate`, the figure, and what to say of it."""

    key: str
    figure: float
    what: str


def judge(new: Profile, old: Profile | None, limits: DataGate) -> list[Finding]:
    """Every limit that `new` breaks; without an `old` one only `quarantined` can be.

    A share of quarantined files that was let through before, because somebody wanted it so, breaks none.
    """
    found, share = [], new.quarantined_share
    if share > max(limits.quarantined, old.quarantined_share if old else 0):
        what = f"{new.quarantined:,} of {new.files:,} files were quarantined, {share:.1%}"
        found.append(Finding("quarantined", share, what))
    if old is None:
        return found
    lost = sorted(set(old.classes) - set(new.classes))
    if len(lost) > limits.lost_classes:
        names = ", ".join(lost[:_SHOWN]) + (f" and {len(lost) - _SHOWN} more" if lost[_SHOWN:] else "")
        found.append(Finding("lost_classes", len(lost), f"classes without an image now: {len(lost)} ({names})"))
    if old.samples and (drop := 1 - new.samples / old.samples) > limits.drop:
        what = f"{new.samples:,} images are left of {old.samples:,}, {drop:.1%} fewer"
        found.append(Finding("drop", drop, what))
    shifts = {"widths": _shift(old.widths, new.widths), "heights": _shift(old.heights, new.heights)}
    side = max(shifts, key=shifts.__getitem__)
    if shifts[side] > limits.size_shift:
        what = f"the source images' {side} shifted by {shifts[side]:.2f} (Kolmogorov-Smirnov distance)"
        found.append(Finding("size_shift", shifts[side], what))
    return found


def ks_distance(one: Mapping[int, int], other: Mapping[int, int]) -> float:
    """The largest difference of two cumulative distributions, given as counts by value: 0 alike, 1 apart."""
    totals = sum(one.values()), sum(other.values())
    seen, largest = [0, 0], 0.0
    for value in sorted({*one, *other}):
        seen[0] += one.get(value, 0)
        seen[1] += other.get(value, 0)
        largest = max(largest, abs(seen[0] / totals[0] - seen[1] / totals[1]))
    return largest


def _shift(old: Mapping[int, int], new: Mapping[int, int]) -> float:
    return ks_distance(old, new) if old and new else 0.0


def admit(storage: Storage, dataset: DatasetRef, limits: DataGate) -> None:
    """Lets a version through to be trained on, and makes it the one that the next is compared with.

    Raises UserError with the figures, the limits and the keys to raise where it breaks a limit; it stays committed.
    A version that was let through once passes whatever the limits are now.
    """
    new = profile(storage, dataset)
    word = {"digest": new.digest, "files": new.files, "quarantined": new.quarantined}
    try:
        accepted = storage.read_json(accepted_path(dataset.name))
    except FileNotFoundError:
        accepted = None
    if accepted == word:
        return
    old = _profile_of_accepted(storage, dataset.name, accepted)
    if found := judge(new, old, limits):
        raise UserError(_told(dataset, old, found, limits))
    storage.write_json(accepted_path(dataset.name), word)


def profile(storage: Storage, dataset: DatasetRef) -> Profile:
    manifest = load_manifest(storage, dataset)
    with open_tables(storage, sources=dataset) as database:
        files, quarantined = database.execute(
            # Images that were forgotten on purpose are no sign that something is wrong.
            "SELECT count(*), count(*) FILTER (status = 'quarantined' AND reason <> 'forgotten') FROM sources"
        ).fetchall()[0]
        widths, heights = (
            dict(
                database.execute(
                    f"SELECT {side}, count(*) FROM sources WHERE status = 'kept' AND {side} > 0 GROUP BY 1"
                ).fetchall()
            )
            for side in ("width", "height")
        )
    classes = tuple(name for name, count in zip(manifest.classes, manifest.class_counts, strict=True) if count)
    return Profile(dataset.digest, sum(manifest.samples.values()), files, quarantined, classes, widths, heights)


def _profile_of_accepted(storage: Storage, name: str, accepted: dict | None) -> Profile | None:
    """None if there is none, or if it was deleted since."""
    if accepted is None:
        return None
    try:
        found = profile(storage, DatasetRef(name, accepted["digest"]))
        # A later ingest of the same images may have found other files beside them.
        return replace(found, files=accepted["files"], quarantined=accepted["quarantined"])
    except FileNotFoundError:
        return None


def _told(dataset: DatasetRef, old: Profile | None, found: list[Finding], limits: DataGate) -> str:
    broken = [f"{finding.what}; data.gate.{finding.key} is {getattr(limits, finding.key)}" for finding in found]
    accept = " ".join(f"--set data.gate.{finding.key}={_enough(finding.figure)}" for finding in found)
    against = f", compared with {old.digest[:12]}, the last that was" if old else ""
    return (
        f"dataset {dataset.name} {dataset.digest[:12]} is not trained on{against}: {'; '.join(broken)};"
        f" mend the source, or accept this version once with {accept}"
    )


def _enough(figure: float) -> float | int:
    """A limit that the figure keeps, in few digits."""
    return figure if isinstance(figure, int) else math.ceil(figure * 1000) / 1000
