"""Generators of a few kilobytes in a real registry: untrained, and each unlike the others."""

from typing import Any

import torch

from ganmodels.networks import build_generator
from ganmodels.saving import to_bytes
from ganmodels.spec import NetworkSpec
from pipeline.config import Config
from pipeline.registry.gate import Decision
from pipeline.registry.lookup import resolve
from pipeline.registry.releases import log_evaluation, promote_version, record_decision, register, rollback
from pipeline.registry.runs import log_file, open_run
from pipeline.registry.server import client as connect
from pipeline.storage import Storage

SPEC = NetworkSpec("dcgan", 16, 1, classes=2, width=4)
CLASSES = ["off", "on"]
DATASET = {"name": "dots", "digest": "d" * 64, "samples": 10, "classes": 2, "uri": "file:///dots"}
REPORT = b'{"figures": []}'
PAGE = b"<!doctype html><p>measured<script>document.body.textContent = 'ran'</script>"


class Releases:
    """Of one model."""

    def __init__(self, storage: Storage, model: str = "dots", spec: NetworkSpec = SPEC):
        self.storage, self.model, self.spec = storage, model, spec
        self.client = connect(storage)
        self._run_id = open_run(self.client, Config.model_validate({"name": "dots"}), "dots-1", DATASET)

    def release(self, seed: int) -> int:
        """A version whose weights the seed decides; no alias moves."""
        torch.manual_seed(seed)
        network = build_generator(self.spec).eval()
        for name, tensor in network.state_dict().items():
            if "norm" not in name:
                tensor.mul_(20)  # as initialised, its images are all but plain grey
            elif name.endswith(("scale", "shift")):
                tensor.normal_()  # and its classes all alike
        lineage: dict[str, Any] = {"classes": CLASSES[: self.spec.classes], "dataset": "d" * 64, "config": "c" * 64}
        lineage |= {"run": "dots-1", "checkpoint": "step-1", "images": 64}
        weights = to_bytes(network.state_dict())
        return register(
            self.client, model=self.model, run_id=self._run_id, spec=self.spec, weights=weights, lineage=lineage
        )

    def refuse(self, version: int, reason: str) -> None:
        """With a report, as the gate does."""
        evidence = log_evaluation(self.client, resolve(self.client, self.model, version), REPORT)
        decision = Decision(False, reason, "interval", {"distance": 21.5, "seeds": 2}, None)
        record_decision(self.client, self.model, version, decision, evidence)

    def add_page(self, version: int) -> None:
        """For people, with a script that must not run."""
        log_file(self.client, self._run_id, PAGE, f"pages/{version}/index.html")
        self.client.set_model_version_tag(self.model, str(version), "ganline.page", f"pages/{version}/index.html")

    def promote(self, version: int) -> None:
        promote_version(self.client, self.model, version)

    def rollback(self) -> None:
        rollback(self.client, self.model)
