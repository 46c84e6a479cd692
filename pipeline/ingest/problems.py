"""What can be wrong with a file, and what is done about it: fix it, quarantine it, or fail above a share."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.errors import UserError

# A share, 0..1, quarantines too, and fails the ingest when more than that share of all files have the problem.
Policy = Literal["fix", "quarantine"] | float


@dataclass(frozen=True)
class Problem:
    meaning: str
    fix: str | None  # None: nothing can be done about it
    default: Policy


PROBLEMS: dict[str, Problem] = {
    "unreadable": Problem("its source cannot give its bytes", None, "quarantine"),
    "empty": Problem("no bytes", None, "quarantine"),
    "not_an_image": Problem("of no known format", None, "quarantine"),
    "truncated": Problem(
        "its end is missing", "PNG, JPEG: what there is of it, the rest in the background colour", "quarantine"
    ),
    "corrupt": Problem("damaged", None, "quarantine"),
    "too_many_pixels": Problem("more pixels, or passes over them, than are decoded", None, "quarantine"),
    "too_large": Problem("more bytes than are read", None, "quarantine"),
    "kills_the_worker": Problem("the process that decodes it dies", None, "quarantine"),
    "animated": Problem("more than one frame", "the first frame", "fix"),
    "too_small": Problem("its shorter side is below data.min_side", "enlarged", "fix"),
    "extreme_aspect": Problem("longer by shorter side above data.max_aspect", "the centre square", "fix"),
    "wrong_extension": Problem("its name says another format than its bytes", "the name is ignored", "fix"),
}


def complete_policies(given: Any) -> dict[str, Policy]:
    """The policy of every problem: what is given, and the defaults. Raises ValueError in one line."""
    if not isinstance(given, dict):
        raise ValueError("give a policy for each problem by name, such as {corrupt: 0.01}")
    return {**{name: problem.default for name, problem in PROBLEMS.items()}, **dict(map(_checked, given.items()))}


def _checked(pair: tuple[Any, Any]) -> tuple[str, Policy]:
    name, policy = pair
    if name not in PROBLEMS:
        raise ValueError(f"no problem is called {name!r}; there are {', '.join(PROBLEMS)}")
    if policy == "fix" and PROBLEMS[name].fix is None:
        raise ValueError(f"{name} cannot be fixed; take quarantine, or a share of files from 0 to 1")
    if policy in ("fix", "quarantine"):
        return name, policy
    if isinstance(policy, bool) or not isinstance(policy, int | float) or not 0 <= policy <= 1:
        raise ValueError(f"{name}: {policy!r} is none of fix, quarantine and a share of files from 0 to 1")
    return name, float(policy)


def fixes(policies: Mapping[str, Policy]) -> tuple[str, ...]:
    """The problems that are fixed, sorted."""
    return tuple(sorted(name for name, policy in policies.items() if policy == "fix"))


FIXED_BY_DEFAULT = fixes(complete_policies({}))


def check_shares(counts: Mapping[str, int], total: int, problems: Mapping[str, Policy]) -> None:
    """Raises UserError if more files have a problem than its share of `total` files allows.

    `counts`: how many files were quarantined, by problem. `problems`: `data.problems`.
    """
    over = [
        f"{counts[name]} of {total} files are {name}, a share of {counts[name] / total:.4g},"
        f" above data.problems.{name} {limit:.4g}"
        for name, limit in problems.items()
        if isinstance(limit, float) and counts.get(name, 0) > limit * total
    ]
    if over:
        raise UserError(f"{'; '.join(over)}; mend the source, or allow a larger share")
