"""Whether a dataset has what the features that a recipe asks for are learned from."""

from collections.abc import Collection

from pipeline.config import OWN_CLASSIFIER, Config
from pipeline.errors import UserError


def check_teachable(config: Config, classes: Collection[str]) -> None:
    """Raises UserError where a classifier of its own is asked for and there are not two of `classes` to tell apart."""
    if config.evaluation.features != OWN_CLASSIFIER:
        return
    shown = [name for name in classes if not config.data.only or name in config.data.only]
    if len(shown) < 2:
        there = f"those of {config.name} are all of one, {shown[0]}" if shown else f"those of {config.name} have none"
        raise UserError(
            f"evaluation.features {OWN_CLASSIFIER} learns to tell classes apart, and the images have too few: {there};"
            " put each class in a sub-folder, or leave evaluation.features out"
        )
