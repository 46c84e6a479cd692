"""The code in each released model: MLflow's own tools run it from there, Ganline never does.

A row of the input is an image: `seed` and `index`, and `label` where the generator has classes. A row of the
output is its PNG in base64, which says in its text what model, version and seed it is of.
"""

import base64
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import yaml
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PythonModel, PythonModelContext

from pipeline.pictures import to_png
from pipeline.provenance import Provenance
from pipeline.registry.generator import generator_from_files


class GeneratorModel(PythonModel):
    def load_context(self, context: PythonModelContext) -> None:
        weights, document = (Path(context.artifacts[name]).read_bytes() for name in ("weights", "spec"))
        self.generator = generator_from_files(weights, document)
        self.model, self.version = json.loads(document).get("lineage", {}).get("model", "generator"), None
        # MLflow leaves word of which version of what it was asked for.
        asked = Path(context.artifacts["spec"]).parent.parent / "registered_model_meta"
        if asked.is_file():
            values = yaml.safe_load(asked.read_text())
            self.model, self.version = str(values["model_name"]), int(values["model_version"])

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        truncation = (params or {}).get("truncation", 1.0)
        seeds, indexes = model_input["seed"].tolist(), model_input["index"].tolist()
        labels = model_input["label"].tolist() if "label" in model_input else None
        pictures: list[str] = []
        for start, end in _runs(seeds, indexes):
            try:
                images = self.generator.sample(
                    end - start,
                    seeds[start],
                    None if labels is None else labels[start:end],
                    truncation,
                    first=indexes[start],
                )
            except ValueError as error:
                raise MlflowException.invalid_parameter_value(str(error)) from None
            of_all = Provenance(self.model, self.version, seeds[start], truncation)
            for row, image in enumerate(images, start=start):
                text = of_all.of_image(indexes[row], self._label(indexes[row], labels and labels[row]))
                pictures.append(base64.b64encode(to_png(image, text)).decode())
        return pd.DataFrame({"image": pictures})

    def _label(self, index: int, number: int | None) -> str | None:
        names = self.generator.class_names
        return names[index % len(names) if number is None else number] if names else None


def _runs(seeds: list[int], indexes: list[int]) -> list[tuple[int, int]]:
    """Spans of rows of one seed and rising indexes: each is sampled at once."""
    rows = list(zip(seeds, indexes, strict=True))
    breaks = [row for row in range(1, len(rows)) if rows[row] != (rows[row - 1][0], rows[row - 1][1] + 1)]
    return list(pairwise([0, *breaks, len(rows)])) if rows else []


mlflow.models.set_model(GeneratorModel())
