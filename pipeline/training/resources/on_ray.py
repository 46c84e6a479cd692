"""How many workers a Ray cluster has room for."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import ray
from ray._private.state import available_resources_per_node, state

from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.progress import note

_DEFAULT_CPU_WORKERS = 2
_SETTLE_SECONDS = 3.0  # in which what a dead group held is free again


@dataclass(frozen=True)
class Share:
    """`fewest` to `most` workers, each with so many CPUs, and a GPU if they have any."""

    fewest: int
    most: int
    cpus_each: int
    on_gpus: bool

    def of(self, resources: dict[str, float]) -> int:
        """Workers that so much is enough for."""
        counts = [int(resources.get("CPU", 0)) // self.cpus_each]
        return min([*counts, int(resources.get("GPU", 0))] if self.on_gpus else counts)

    def bundle(self) -> dict[str, float]:
        return {"CPU": float(self.cpus_each)} | ({"GPU": 1.0} if self.on_gpus else {})


class Missing(Exception):
    """The cluster does not have what the workers need, and did not get it in time. Says what."""


def share_of(config: Config) -> Share:
    """What the recipe asks for, of this cluster. Raises UserError for more than a cluster of our own has."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus, cpus = (int(sum(node.get(kind, 0) for node in nodes)) for kind in ("GPU", "CPU"))
    have, what = (gpus, "GPUs") if gpus else (cpus, "CPUs")
    default = min(gpus or min(cpus, _DEFAULT_CPU_WORKERS), config.data.streams)
    fewest, most = config.cluster.sizes or (default, default)
    # On several nodes nobody knows which worker lands where, so each asks for what any node can give.
    alone = max(1, cpus // most) if len(nodes) == 1 and not gpus else 1
    share = Share(fewest, most, config.cluster.cpus_per_worker or alone, gpus > 0)
    if not os.environ.get("RAY_ADDRESS") and sum(map(share.of, nodes)) < fewest:
        each = "" if gpus or share.cpus_each == 1 else f" of {share.cpus_each} CPUs"
        raise UserError(f"cluster.workers is {fewest}{each} but Ray has {have} {what}; ask for fewer, or add nodes")
    return share


def wait_for_room(share: Share, seconds: float, stopped: Callable[[], bool]) -> int:
    """How many workers there is room for now, `most` at most; 0 once it is `stopped`. Raises Missing where it is not
    enough for the fewest within so many seconds."""
    begun, asked = time.monotonic(), False
    while not stopped():
        waited, room = time.monotonic() - begun, room_for(share)
        if room >= share.fewest and (room >= _in_all(share) or waited > _SETTLE_SECONDS):
            return room
        if waited > max(seconds, _SETTLE_SECONDS):
            free = ", ".join(f"{count:g} {kind}" for kind, count in sorted(share.bundle().items()))
            raise Missing(
                f"the cluster has room for {room} of {share.fewest} workers with {free} each, and got no more within"
                f" {waited:.0f} s"
            )
        if waited > _SETTLE_SECONDS and not asked:
            asked = True
            note(f"waiting for machines: there is room for {room} of {share.fewest} workers")
            _ask_for(share)
        time.sleep(0.2)
    return 0


def room_for(share: Share) -> int:
    """Workers that what is free now is enough for, on machines that stay."""
    leaving, free = draining(), available_resources_per_node()
    return min(share.most, sum(share.of(has) for node, has in free.items() if node not in leaving))


def _in_all(share: Share) -> int:
    """Likewise, if nobody else had anything."""
    leaving = draining()
    nodes = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] not in leaving]
    return min(share.most, sum(share.of(node["Resources"]) for node in nodes))


def draining() -> set[str]:
    """Ids of nodes that are about to go, as `ray drain-node` and autoscalers tell."""
    return set(state.get_draining_nodes())


def _ask_for(share: Share) -> None:
    """An autoscaler, if there is one, adds machines for these; without one nothing happens."""
    from ray.autoscaler.sdk import request_resources

    request_resources(bundles=[share.bundle()] * share.fewest)
