"""A small real dataset, and training on it in real process groups without Ray."""

import json
import resource
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import rank_main
from forks import FORKS
from PIL import Image

from pipeline.config import Config
from pipeline.shards import on_ray
from pipeline.shards.manifest import DatasetRef
from pipeline.storage import Storage
from pipeline.training import train
from pipeline.training.checkpoint import newest_checkpoint, read_files
from pipeline.training.clock import FIGURES
from pipeline.training.plan import plan_run
from pipeline.training.run import only_writer
from pipeline.training.telemetry import read_points


@dataclass
class Trained:
    """What a run left behind: its files, its figures without the clock's, and what each step consumed."""

    files: dict[str, bytes]
    figures: list[tuple[int, dict[str, float]]]
    consumed: dict[str, list[str]]


@dataclass
class Trainer:
    storage: Storage
    dataset: DatasetRef
    folder: Path

    def config(self, data: dict | None = None, workers: int | None = None, **training: object) -> Config:
        values = {"images": 16 * 24, "batch": 16, "log_every": 32, "checkpoint_every": 160, "evaluate_every": 320}
        return Config.model_validate(
            {
                "name": "t", "data": {"source": "x", "resolution": 16, "channels": 1, **(data or {})},
                "model": {"width": 8, "z_dim": 8},
                "training": {**values, "precision": "fp32", **training},
                "cluster": {"workers": workers, "cpus_per_worker": 1},
            }
        )  # fmt: skip

    def alone(self, config: Config) -> train.Trained:
        """In this process, as the stage does."""
        plan = plan_run(self.storage, config, self.dataset)
        with only_writer(self.storage, plan.run) as held:
            return train.train_run(self.storage, config, plan, held)

    def __call__(
        self, run: str, world: int = 1, *, stop_at: int | None = None, init: Path | None = None,
        bf16: bool = False, model: dict | None = None, data: dict | None = None, poison: dict[int, int] | None = None,
        double: bool = False,
        **training: object,
    ) -> Trained:  # fmt: skip
        """Trains `run` on, until the end or until the step that it is stopped at (counted in this attempt).

        `poison`: the last rank's noise is NaN at these steps, so many times each.
        """
        config = self.config(data, **training)
        config = config.model_copy(update={"model": config.model.model_copy(update=model or {})})
        plan = plan_run(self.storage, config, self.dataset)
        consumed = self.folder / uuid.uuid4().hex
        arguments = {
            "rendezvous": f"file://{self.folder / uuid.uuid4().hex}",
            "storage": self.storage.uri, "run": run, "dataset": [self.dataset.name, self.dataset.digest],
            "config": config.model_dump(mode="json"),
            "spec": plan.spec.to_dict(), "total_steps": plan.total_steps,
            "bf16": bf16, "init": str(init) if init else None, "stop_at": stop_at, "consumed": str(consumed),
            "poison": poison, "double": double, "classes": plan.classes,
        }  # fmt: skip
        ranks = [FORKS.Process(target=rank_main.main, args=(arguments, rank, world)) for rank in range(world)]
        for process in ranks:
            process.start()
        for process in ranks:
            process.join(300)
        assert [process.exitcode for process in ranks] == [0] * world
        checkpoint = newest_checkpoint(self.storage, run)
        assert checkpoint is not None
        by_rank = [json.loads(Path(f"{consumed}.{rank}").read_text()) for rank in range(world)]
        return Trained(
            {k: v for k, v in read_files(self.storage, checkpoint).items() if k != "COMPLETE"},
            [
                (p["images"], {k: v for k, v in p["metrics"].items() if k not in FIGURES})
                for p in read_points(self.storage, run)
            ],
            {step: [key for each in by_rank for key in each[step]] for step in by_rank[0]},
        )


@pytest.fixture(scope="session")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    """120 images of two classes, 16 x 16 grey."""
    folder = tmp_path_factory.mktemp("training")
    rng = np.random.default_rng(0)
    for label in ("dark", "light"):
        (folder / "images" / label).mkdir(parents=True)
        for i in range(60):
            pixels = rng.integers(0, 128, (16, 16), dtype=np.uint8) + (128 if label == "light" else 0)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / "images" / label / f"{i}.png")
    storage = Storage(str(folder / "root"))
    data = Config.model_validate(
        {"name": "t", "data": {"source": str(folder / "images"), "resolution": 16, "channels": 1, "shard_images": 25}}
    ).data
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(on_ray, "cluster", nullcontext)
        patch.setattr(on_ray, "run_tasks", lambda function, shared, each: (function(shared, one) for one in each))
        dataset = on_ray.shard_images(storage, "t", data).dataset
    return Trainer(storage, dataset, folder)


@pytest.fixture
def run_name() -> Callable[[], str]:
    return lambda: f"t-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def largest_file() -> Callable[[int], AbstractContextManager]:
    """Within, no file can grow past so many bytes: a write breaks off in the middle, as on a full disk."""

    @contextmanager
    def limit(size: int) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limit
