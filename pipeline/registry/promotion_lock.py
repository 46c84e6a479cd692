"""One promotion of a model at a time, whatever the registry's backend.

No MLflow alias has a compare-and-swap, but a registered model's name can be taken only once. So the lock of
`mnist` is a registered model `mnist.promotion-lock`, created by its holder. To take away an expired one, or
to give back one's own, it is renamed to `mnist.promotion-lock.<owner>`: of all who try that, one succeeds,
and once that name is taken nobody can mistake a newer holder's lock for the old one.
"""

import math
import os
import random
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from mlflow.entities.model_registry import RegisteredModel
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from pipeline.errors import Unavailable
from pipeline.registry.reference import LOCK

EXPIRES_AFTER = 30.0  # seconds; a promotion takes one
WAIT = 45.0  # seconds: longer than a dead holder's lock lasts
_KEEP_TAKEN_AWAY = 86_400.0  # seconds

_EXPIRES, _OWNER, _HOLDER = "ganline.expires", "ganline.owner", "ganline.holder"


@dataclass(frozen=True)
class Held:
    """A lock in one's hands until `expires` (Unix seconds)."""

    model: str
    expires: float

    def check(self) -> None:
        """Raises UserError if the lock has expired: another may be promoting by now."""
        if time.time() >= self.expires:
            raise Unavailable(
                f"promoting {self.model} took longer than its lock lasts; see whether the registry is slow,"
                " then do it again"
            )


@contextmanager
def promotion_lock(
    client: MlflowClient, model: str, *, expires_after: float = EXPIRES_AFTER, wait: float = WAIT
) -> Iterator[Held]:
    """Holds the lock of `model`, at most `expires_after` seconds; raises UserError after `wait` seconds in vain.

    The clocks of all promoters must agree to well below `expires_after`.
    """
    name, owner = model + LOCK, uuid.uuid4().hex
    deadline = time.monotonic() + wait
    while (held := _try(client, model, name, owner, expires_after)) is None:
        if time.monotonic() >= deadline:
            holder = _find(client, name)
            raise Unavailable(
                f"{model} is being promoted by {_holder(holder) if holder else 'another'}; wait for it to end,"
                f" then do it again (its lock is the registered model {name})"
            )
        time.sleep(random.uniform(0.05, 0.2))
    try:
        yield held
    finally:
        _give_back(client, name, owner, held)


def _try(client: MlflowClient, model: str, name: str, owner: str, expires_after: float) -> Held | None:
    expires = time.time() + expires_after
    tags = {_EXPIRES: str(expires), _OWNER: owner, _HOLDER: f"process {os.getpid()} on {socket.gethostname()}"}
    try:
        client.create_registered_model(name, tags)
    except MlflowException as error:
        # The latter: the name was taken, and free again when MLflow looked what had it.
        if error.error_code not in ("RESOURCE_ALREADY_EXISTS", "RESOURCE_DOES_NOT_EXIST"):
            raise
        existing = _find(client, name)
        if existing is None:
            return None
        # It may be our own: a request whose answer was lost is sent again.
        if _owner(existing) != owner:
            if time.time() >= _expiry(existing, expires_after):
                with suppress(MlflowException):  # another was quicker
                    client.rename_registered_model(name, f"{name}.{_owner(existing)}")
            return None
    _forget_taken_away(client, name)
    return Held(model, expires)


def _give_back(client: MlflowClient, name: str, owner: str, held: Held) -> None:
    with suppress(MlflowException):  # it was taken away; or the registry is gone, and then it expires
        client.rename_registered_model(name, f"{name}.{owner}")
        # Expired, it may be known to others as one to take away: then its name must stay taken.
        if time.time() < held.expires:
            client.delete_registered_model(f"{name}.{owner}")


def _forget_taken_away(client: MlflowClient, name: str) -> None:
    for gone in client.search_registered_models(f"name LIKE '{name}.%'"):
        changed = (gone.last_updated_timestamp or math.inf) / 1000
        if gone.name.startswith(f"{name}.") and time.time() - changed > _KEEP_TAKEN_AWAY:
            with suppress(MlflowException):  # another was quicker
                client.delete_registered_model(gone.name)


def _find(client: MlflowClient, name: str) -> RegisteredModel | None:
    try:
        return client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def _owner(lock: RegisteredModel) -> str:
    return lock.tags.get(_OWNER) or str(lock.creation_timestamp)


def _holder(lock: RegisteredModel) -> str:
    return lock.tags.get(_HOLDER) or "another"


def _expiry(lock: RegisteredModel, expires_after: float) -> float:
    try:
        return float(lock.tags[_EXPIRES])
    except (KeyError, ValueError):  # made by hand
        return (lock.creation_timestamp or 0) / 1000 + expires_after
