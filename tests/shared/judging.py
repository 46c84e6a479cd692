"""The gate's word about versions, and what the registry shows afterwards; `world` has a registry as `client`."""

from pipeline.registry import audit
from pipeline.registry.gate import Measured, Rules, decide

WORSE = {"interval": (2.2, 3.1, 4.0), "measured": Measured(2000, 2000, 2, memorised=0.01), "rules": Rules()}
BETTER = {**WORSE, "interval": (-4.0, -3.1, -2.2)}


def aliases(world, model: str) -> dict[str, int]:
    there = world.client.get_registered_model(model).aliases
    return {alias: int(version) for alias, version in there.items()}


def tags(world, model: str, version: int) -> dict[str, str]:
    return world.client.get_model_version(model, str(version)).tags


def locks(world) -> list[str]:
    return [one.name for one in world.client.search_registered_models() if "lock" in one.name]


def judge(version: int, figures: dict, report: bytes | None = None):
    return lambda champion: (decide(champion=champion, candidate_version=version, **figures), report)


def record(world, model: str, version: int) -> list[dict]:
    """The newest first."""
    return audit.read(world.client, world.client.get_model_version(model, str(version)))
