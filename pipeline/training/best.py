"""The checkpoint at which a run was best, which is not always its last."""

import logging

from pipeline.progress import note
from pipeline.storage import Storage
from pipeline.training.checkpoint import BadCheckpoint, CheckpointRef, by_distance, list_checkpoints, verify_checkpoint

log = logging.getLogger(__name__)


def best_checkpoint(storage: Storage, run: str) -> CheckpointRef | None:
    """The run's checkpoint with the lowest Frechet distance, verified; of equals the newest. None if none has any.

    One that does not verify is passed over for the next best, saying so.
    """
    for one in by_distance(list_checkpoints(storage, run)):
        try:
            return verify_checkpoint(storage, run, one.path)
        except BadCheckpoint as why:
            note(f"checkpoint {one.path} is not used: {why}")
            log.warning("checkpoint %s is not used: %s", one.path, why)
    return None
