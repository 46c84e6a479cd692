"""One real sqlite store for all of these tests: MLflow's migrations take seconds."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow_server import MlflowServer

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when mlflow is imported

from ganmodels.networks import build_encoder, build_generator
from ganmodels.saving import to_bytes
from ganmodels.spec import NetworkSpec
from pipeline.config import Config
from pipeline.registry.releases import register
from pipeline.registry.runs import open_run
from pipeline.registry.server import client as connect
from pipeline.storage import Storage

SPEC = NetworkSpec("dcgan", 16, 1, classes=2, width=4)
DATASET = {
    "name": "dots",
    "digest": "d" * 64,
    "samples": 10,
    "classes": 2,
    "uri": "s3://key:pass@bucket/dots",
}


BIGAN = NetworkSpec("resnet", 16, 3, z_dim=5, width=2, max_width=4, bigan=True)


@dataclass
class World:
    storage: Storage
    client: Any
    config: Config
    run_id: str
    spec: NetworkSpec = SPEC
    dataset: dict[str, Any] = field(default_factory=lambda: DATASET)
    networks: dict[int, torch.nn.Module] = field(default_factory=dict)

    def network(self, seed: int) -> torch.nn.Module:
        if seed not in self.networks:
            torch.manual_seed(seed)
            self.networks[seed] = build_generator(SPEC).eval()
            for name, tensor in self.networks[seed].state_dict().items():
                if "norm" not in name:
                    tensor.mul_(20)  # as initialised, its images are all but plain grey
                elif name.endswith(("scale", "shift")):
                    tensor.normal_()  # and its classes all alike
        return self.networks[seed]

    def release(self, model: str, seed: int) -> int:
        lineage: dict[str, Any] = {"classes": ["off", "on"], "dataset": "d" * 64, "config": "c" * 64}
        lineage |= {"run": "dots-1", "checkpoint": "step-1", "images": 64}
        weights = to_bytes(self.network(seed).state_dict())
        return register(self.client, model=model, run_id=self.run_id, spec=SPEC, weights=weights, lineage=lineage)

    def release_with_encoder(self, model: str, seed: int = 0) -> tuple[int, torch.nn.Module]:
        """The version, and the encoder in it."""
        torch.manual_seed(seed)
        network, encoder = build_generator(BIGAN).eval(), build_encoder(BIGAN).eval()
        weights, back = to_bytes(network.state_dict()), to_bytes(encoder.state_dict())
        lineage: dict[str, Any] = {"dataset": "d" * 64, "config": "c" * 64}
        lineage |= {"run": "dots-1", "checkpoint": "step-1", "images": 64}
        version = register(
            self.client, model=model, run_id=self.run_id, spec=BIGAN, weights=weights, lineage=lineage, encoder=back
        )
        return version, encoder


def make_world(folder: Path) -> World:
    # A space, a percent sign and a hash: what URIs and paths disagree about.
    storage = Storage(str(folder / "a b#c%41"))
    client = connect(storage)
    config = Config.model_validate({"name": "dots", "storage": "s3://key:pass@bucket/x?region=eu&token=abc"})
    return World(storage, client, config, open_run(client, config, "dots-1", DATASET))


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> World:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        return make_world(tmp_path_factory.mktemp("root"))


@dataclass
class Served:
    """A world whose MLflow is a server, which can be away."""

    world: World
    server: MlflowServer
    running: bool = True

    def up(self) -> World:
        if not self.running:
            self.server.start()
            self.server.ready()
            self.running = True
        return self.world

    def down(self) -> World:
        if self.running:
            self.server.kill()
            self.running = False
        return self.world


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[Served]:
    server = MlflowServer(tmp_path_factory.mktemp("mlflow"))
    server.start()
    server.ready()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", server.uri)
        served = Served(make_world(tmp_path_factory.mktemp("root")), server)
    yield served
    served.down()


@pytest.fixture(autouse=True)
def here(monkeypatch, tmp_path_factory) -> Callable[[], list[str]]:
    """Each test runs in an empty folder and without a server; gives what it left there."""
    folder = tmp_path_factory.mktemp("here")
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return lambda: sorted(os.listdir(folder))
