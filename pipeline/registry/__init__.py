"""MLflow: one run for each Ganline run, released generators as model versions, and looking them up again."""

from pipeline.registry.lookup import load

__all__ = ["load"]
