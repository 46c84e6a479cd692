"""Recipes: a configuration as people write it, in YAML or as a preset, with `--set` on top; a mistake is one line."""

from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from pipeline.config import Config
from pipeline.errors import UserError


def presets() -> list[str]:
    """Names of the recipes that ship with Ganline."""
    folder = resources.files("pipeline") / "presets"
    return sorted(entry.name[:-5] for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load_config(recipe: str, overrides: list[str] | None = None) -> Config:
    """A YAML file or a preset's name, with `a.b=value` on top; raises UserError in one line."""
    values = _read_recipe(recipe)
    for override in overrides or []:
        _override(values, override)
    return parse_config(values, f"recipe {recipe}")


def with_evaluation(config: Config, overrides: list[str] | None) -> Config:
    """The recipe with `evaluation.key=value` on top; raises UserError in one line, for another section too."""
    values = config.model_dump(mode="json", exclude_unset=True)
    if any(override.startswith("evaluation.features=") for override in overrides or []):
        for key in ("features_sha256", "features_pixels", "features_range"):  # they are of those in the recipe
            values.get("evaluation", {}).pop(key, None)
    for override in overrides or []:
        if not override.startswith("evaluation."):
            raise UserError(f"--set {override}: only evaluation.key=value means something here")
        _override(values, override)
    return parse_config(values, "--set")


def parse_config(values: dict[str, Any], origin: str) -> Config:
    """Raises UserError in one line that names `origin` and every wrong key."""
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{origin}: {_explain(error)}") from None


def _read_recipe(recipe: str) -> dict[str, Any]:
    if recipe in presets():
        text = (resources.files("pipeline") / "presets" / f"{recipe}.yaml").read_text()
    else:
        try:
            text = Path(recipe).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"no recipe {recipe}: {getattr(error, 'strerror', None) or 'not a text file'};"
                f" give a YAML file or one of the presets: {', '.join(presets())}"
            ) from None
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"recipe {recipe} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise UserError(f"recipe {recipe} holds no keys; see `ganline config show mnist` for one that does")
    return values


def _override(values: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    keys = path.split(".")
    if not equals or not all(keys):
        raise UserError(f"--set {override}: write it as section.key=value")
    for key in keys[:-1]:
        inner = values.setdefault(key, {})
        if not isinstance(inner, dict):
            raise UserError(f"--set {override}: {key} is not a section")
        values = inner
    try:
        values[keys[-1]] = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"--set {override}: the value is not YAML") from None


def _explain(error: ValidationError) -> str:
    problems = []
    for problem in error.errors():
        # In brackets stands which of two forms a value was taken for.
        where = ".".join(part for part in problem["loc"] if isinstance(part, str) and not part.startswith("("))
        if problem["type"] == "extra_forbidden":
            said = "no such key; `ganline config show mnist` lists them all"
        elif problem["type"] == "missing":
            said = "is missing; add it"
        else:
            said = problem["msg"].removeprefix("Value error, ")
            if not isinstance(problem["input"], dict | BaseModel):
                said += f" (it is {problem['input']!r})"
        problems.append(f"{where}: {said}" if where else said)
    return "; ".join(problems)
