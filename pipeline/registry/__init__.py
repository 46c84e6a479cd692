"""MLflow: one run for each Ganline run, released generators as model versions, and looking them up again."""

from pipeline.registry.lookup import load, load_found
from pipeline.registry.watching import Watcher, watch

__all__ = ["Watcher", "load", "load_found", "watch"]
