"""`MODEL@ALIAS` and `MODEL@VERSION`, as users write them."""

import re

from pipeline.errors import UserError

CHAMPION = "champion"
PREVIOUS = "previous"

# Registered models with this in their name are no models: see promotion_lock.py.
LOCK = ".promotion-lock"

# The pattern of a recipe's name. It holds no slash and starts with no dot: it names a folder of the cache.
_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_ALIAS = re.compile(r"[A-Za-z0-9_-]{1,255}")
_VERSION = re.compile(r"[vV]?([0-9]{1,9})")


def parse(reference: str) -> tuple[str, str | int]:
    """`mnist@champion` -> ("mnist", "champion"); `mnist@3` and `mnist@v3` -> ("mnist", 3).

    `mnist` alone means its champion. Raises UserError for anything else.
    """
    model, at, which = reference.partition("@")
    check_model_name(model)
    if not at:
        return model, CHAMPION
    if version := _VERSION.fullmatch(which):
        return model, int(version[1])
    if not _ALIAS.fullmatch(which):
        raise UserError(f"{reference!r} is no release; write MODEL@ALIAS or MODEL@VERSION, as in mnist@champion")
    return model, which


def check_model_name(model: str) -> None:
    """Raises UserError unless `model` can name a registered model and a folder."""
    if not _MODEL.fullmatch(model):
        raise UserError(
            f"{model!r} is no model name; use letters, digits, dots, dashes and underscores, 63 at most,"
            " the first a letter or digit"
        )
    if LOCK in model:
        raise UserError(f"{model!r} is no model name: {LOCK} names Ganline's own locks; choose another")
