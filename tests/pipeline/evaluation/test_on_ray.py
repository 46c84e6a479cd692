"""Features by Ray tasks: the bits of one process, whatever happens to the tasks."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from three_nodes import ray_cluster as real_nodes

from ganmodels.networks import build_generator
from ganmodels.saving import to_bytes
from ganmodels.spec import NetworkSpec
from pipeline.config import Cluster
from pipeline.errors import RunFailed
from pipeline.evaluation import on_ray
from pipeline.evaluation.classifier import Classifier
from pipeline.evaluation.evaluate import evaluate
from pipeline.evaluation.generated import BadGenerator, generated_features
from pipeline.evaluation.on_ray import extract_on_ray, generate_on_ray, spread_out
from pipeline.evaluation.own_classifier import OwnClassifier
from pipeline.evaluation.real import Wanted, extract
from pipeline.evaluation.workers import HERE, Workers
from pipeline.registry.generator import Generator

SPEC = NetworkSpec("dcgan", 28, 1, classes=3, z_dim=4, width=2, max_width=4)
IMAGES = 300  # three tasks, and the last one ends within a batch
LABELS = np.resize([2, 0, 1, 1, 0], IMAGES)  # five, so that no two tasks begin alike


@pytest.fixture
def features() -> OwnClassifier:
    torch.manual_seed(1)
    return OwnClassifier(to_bytes(Classifier(3).state_dict()), 28)


@pytest.fixture
def generator() -> Generator:
    torch.manual_seed(0)
    network = build_generator(SPEC)
    for weight in network.parameters():
        weight.data.normal_(0, 0.5)
    return Generator(network, SPEC, ("ant", "bee", "cow"))


def nobody(count: int) -> None: ...


def deadly(features: OwnClassifier, flag: Path, most: int) -> OwnClassifier:
    """The same features by another name, but the process that computes them is killed, `most` times in all."""

    class Deadly(OwnClassifier):  # here, so that workers get it along
        @property
        def name(self):
            return flag.name

        def __call__(self, images, on_batch):
            for number in range(most):
                try:
                    Path(f"{flag}-{number}").touch(exist_ok=False)
                except FileExistsError:
                    continue
                os.kill(os.getpid(), signal.SIGKILL)
            return super().__call__(images, on_batch)

    return Deadly(features.weights, features.pixels)


@pytest.mark.usefixtures("ray_cluster")
def test_both_sides_are_those_of_one_process(digits, features, generator):
    storage, dataset = digits
    told = list[int]()
    wanted = Wanted(dataset, "train", 500, features.name)
    for rows in (range(500), range(64, 301)):  # as a rank would ask for some
        found, alone = extract_on_ray(storage, wanted, rows, features, told.append), extract(
            storage, wanted, rows, features, nobody
        )  # fmt: skip
        np.testing.assert_array_equal(found.features, alone.features)
        np.testing.assert_array_equal(found.labels, alone.labels)
    assert told == [128, 128, 128, 116, 128, 109]
    for labels in (LABELS, None):
        np.testing.assert_array_equal(
            generate_on_ray(generator, IMAGES, 7, labels, features, nobody),
            generated_features(generator, IMAGES, 7, labels, features, nobody),
        )


@pytest.mark.usefixtures("ray_cluster")
def test_a_worker_that_is_killed_changes_nothing(digits, features, generator, tmp_path):
    storage, dataset = digits
    dying = deadly(features, tmp_path / "generated", 1)
    np.testing.assert_array_equal(
        generate_on_ray(generator, IMAGES, 0, LABELS, dying, nobody),
        generated_features(generator, IMAGES, 0, LABELS, features, nobody),
    )
    wanted = Wanted(dataset, "held_out", 300, features.name)
    dying = deadly(features, tmp_path / "real", 1)
    found = extract_on_ray(storage, wanted, range(300), dying, nobody)
    np.testing.assert_array_equal(found.features, extract(storage, wanted, range(300), features, nobody).features)
    assert len(list(tmp_path.iterdir())) == 2  # each was
    with pytest.raises(RunFailed, match=r"features of 20 images died 3 times.*unset RAY_ADDRESS"):
        generate_on_ray(generator, 20, 0, LABELS[:20], deadly(features, tmp_path / "often", 9), nobody)


@pytest.mark.usefixtures("ray_cluster")
def test_what_is_wrong_with_a_generator_is_told_as_in_one_process(features, generator):
    next(generator.network.parameters()).data[0] = torch.nan
    with pytest.raises(BadGenerator, match="weights are not finite") as error:
        generate_on_ray(generator, IMAGES, 0, LABELS, features, nobody)
    assert error.value.reason == "not_finite"


@pytest.mark.usefixtures("ray_cluster")
def test_an_evaluation_is_the_same_and_on_one_machine_no_task_of_it_starts(fresh, features, generator, monkeypatch):
    storage, dataset = fresh

    def measured(workers: Workers):
        storage.delete_folder("evaluations")
        return evaluate(
            storage, dataset, generator, images=IMAGES, seeds=(0, 1), extractor=features, workers=workers
        )[0]  # fmt: skip

    alone = measured(HERE)
    assert measured(Workers(extract_on_ray, generate_on_ray)) == alone
    monkeypatch.setattr(on_ray, "run_tasks", lambda *given: pytest.fail("a task was started"))
    with spread_out(Cluster()) as workers:
        assert measured(workers) == alone
    monkeypatch.setattr(on_ray, "other_machines", lambda: True)
    monkeypatch.setattr(on_ray, "has_room", lambda: False)
    with spread_out(Cluster()) as workers:
        assert measured(workers) == alone
    monkeypatch.setattr(on_ray, "has_room", lambda: pytest.fail("the cluster was asked"))
    with spread_out(Cluster(), trouble=lambda: "it is away") as workers:
        assert measured(workers) == alone
    with spread_out(Cluster(workers=0)) as workers:
        assert workers is HERE


_DRIVER = """
import json, sys
from pathlib import Path
import ray
from pipeline.config import Cluster
from pipeline.evaluation import on_ray
from pipeline.evaluation.own_classifier import OwnClassifier
from pipeline.evaluation.real import Wanted
from pipeline.shards.manifest import DatasetRef
from pipeline.storage import Storage

tasks = 0

def counted(function, shared, arguments):
    global tasks
    tasks += len(arguments)
    return run_tasks(function, shared, arguments)

run_tasks, on_ray.run_tasks = on_ray.run_tasks, counted
root, digest, weights = sys.argv[1:]
storage, features = Storage(root), OwnClassifier(Path(weights).read_bytes(), 28)
wanted = Wanted(DatasetRef("digits", digest), "train", 300, features.name)
with on_ray.spread_out(Cluster()) as workers:
    before = ray.is_initialized()
    side = workers.extract(storage, wanted, range(300), features, lambda count: None)
print(json.dumps([before, ray.is_initialized(), tasks, side.features.tobytes().hex()]))
"""


def test_a_cluster_with_another_machine_is_joined_for_it(digits, features, tmp_path):
    storage, dataset = digits
    (tmp_path / "weights").write_bytes(features.weights)
    path = {"PYTHONPATH": os.pathsep.join(sys.path)}

    def drive(environment: dict[str, str]) -> list:
        done = subprocess.run(
            [sys.executable, "-c", _DRIVER, storage.uri, dataset.digest, str(tmp_path / "weights")],
            env=os.environ | path | environment, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    wanted = Wanted(dataset, "train", 300, features.name)
    alone = extract(storage, wanted, range(300), features, nobody).features.tobytes().hex()
    with real_nodes(path, "127.0.0.2") as cluster:
        assert drive(cluster.environment) == [False, False, 3, alone]
