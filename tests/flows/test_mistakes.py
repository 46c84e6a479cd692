"""Common mistakes: one line that names the thing and the remedy, exit code 2, and nothing left behind."""

import shutil
import socket
from contextlib import nullcontext

import numpy as np
import pytest
from PIL import Image

from pipeline.recipe import load_config
from pipeline.shards import on_ray
from pipeline.storage import Storage

RECIPE = "name: own\ndata: {source: images, resolution: 32}\n"


def _dead_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


FEATURES = ["--set", f"evaluation.features_sha256={'a' * 64}", "--set", "evaluation.features_pixels=32"]
SMALL = ["--set", "training.batch=8"]
DEAD = f"http://127.0.0.1:{_dead_port()}"

# arguments, environment, what the line has to name, what it has to offer
MISTAKES = {
    "no such recipe": (["run", "nowhere.yaml"], {}, "nowhere.yaml", "presets: cifar10"),
    "recipe is not YAML": (["run", "broken.yaml"], {}, "broken.yaml", "YAML"),
    "recipe is empty": (["run", "empty.yaml"], {}, "empty.yaml", "config show"),
    "recipe has no name": (["run", "nameless.yaml"], {}, "name", "add it"),
    "recipe is a folder": (["run", "images"], {}, "images", "presets: cifar10"),
    "unknown key": (["run", "mnist", "--set", "training.btch=3"], {}, "training.btch", "config show"),
    "unknown section": (["run", "mnist", "--set", "trainig.batch=3"], {}, "trainig", "config show"),
    "not an assignment": (["run", "mnist", "--set", "nonsense"], {}, "nonsense", "section.key=value"),
    "not a number": (["run", "mnist", "--set", "training.batch=many"], {}, "training.batch", "many"),
    "yes for a number": (["run", "mnist", "--set", "training.images=true"], {}, "training.images", "integer"),
    "negative": (["run", "mnist", "--set", "training.images=-5"], {}, "training.images", "greater than 0"),
    "streams do not share the batch": (["run", "mnist", "--set", "training.batch=20"], {}, "20", "multiple"),
    "more workers than streams": (["run", "mnist", "--set", "cluster.workers=9"], {}, "9", "data.streams"),
    "more workers than cores": (["run", "mnist", "--set", "cluster.workers=8"], {}, "cores", "RAY_ADDRESS"),
    "nothing to compile with": (
        ["run", "mnist", "--set", "training.compile=true"], {"CXX": "no-such", "CC": "no-such"}, "no no-such", "leave",
    ),
    "parts that do not divide": (["run", "mnist", "--set", "training.accumulate=3"], {}, "accumulate 3", "divide"),
    "a way that leads nowhere": (["run", "mnist", "--set", "training.r1={from: 1}"], {}, "training.r1.to", "add it"),
    "the same seed twice": (["run", "mnist", "--set", "evaluation.seeds=[1, 1]"], {}, "seeds", "differ"),
    "features that are not there": (
        ["run", "mnist", "--dry-run", *FEATURES, "--set", "evaluation.features=nowhere.pt"], {},
        "nowhere.pt", "TorchScript",
    ),
    "features of another sha256": (
        ["run", "mnist", "--dry-run", *FEATURES, "--set", "evaluation.features=broken.zip"], {},
        "broken.zip", "features_sha256",
    ),
    "Ray at no port": (["run", "mnist"], {"RAY_ADDRESS": "127.0.0.1:abc"}, "RAY_ADDRESS", "unset"),
    "not a truncation": (["generate", "mnist", "--truncation", "nan"], {}, "--truncation", "--help"),
    "endless truncation": (["generate", "mnist", "--truncation", "inf"], {}, "--truncation", "--help"),
    "one picture in shards": (["generate", "mnist", "--shards", "--out", "a.png"], {}, "a.png", "give a folder"),
    "no licence": (["run", "mnist", "--set", "release.licence=' '"], {}, "release.licence", "one line"),
    "resolution no network makes": (["run", "mnist", "--set", "data.resolution=30"], {}, "30", "power of two"),
    "an option that the family does not take": (
        ["run", "mnist", "--set", "model.attention=14"], {}, "dcgan networks take no attention", "options are widths",
    ),
    "an encoder for a family that has none": (
        ["run", "mnist", "--set", "model.bigan=true"], {}, "dcgan networks take no bigan", "options are widths",
    ),
    "a map that cannot attend": (
        ["config", "validate", "mnist", "--set", "model.family=resnet", "--set", "model.attention=5"], {},
        "attention 5", "one of [14]",
    ),
    "rows that make no group": (
        ["run", "mnist", "--set", "model.family=stylegan2", "--set", "model.group=5"], {}, "model.group 5", "batch",
    ),
    "an augmentation that has no p": (
        ["run", "mnist", "--set", "training.augment_p=0.5"], {}, "augment_p has no meaning", "augment ada",
    ),
    "no such family": (["run", "mnist", "--set", "model.family=vae"], {}, "model.family", "dcgan"),
    "no such encoding": (["run", "mnist", "--set", "data.encoding=gif"], {}, "data.encoding", "webp"),
    "no such source": (["run", "mnist", "--set", "data.source=nowhere"], {}, "nowhere", "folder"),
    "empty source": (["run", "mnist", "--set", "data.source=nothing", *SMALL], {}, "nothing", "images"),
    "no valid image": (["shard", "texts", "--name", "own"], {}, "texts", "check"),
    "broken archive": (["run", "mnist", "--set", "data.source=broken.zip"], {}, "broken.zip", "give"),
    "too few for a batch": (["run", "own.yaml"], {}, "batch of 64", "training.batch"),
    "classes that are not there": (
        ["run", "own.yaml", "--set", "model.conditional=true", *SMALL], {}, "conditional", "folder",
    ),
    "name that is a path": (["shard", "images", "--name", "../own"], {}, "name", "pattern"),
    "storage below a file": (["run", "mnist", "--storage", "/dev/null/x"], {}, "/dev/null/x", "GANLINE_STORAGE"),
    "storage of no kind": (["run", "mnist", "--storage", "ftp://a/b"], {}, "ftp://a/b", "s3://"),
    "train without a dataset": (["train", "mnist"], {}, "mnist", "ganline shard"),
    "train on a dataset made otherwise": (
        ["train", "own.yaml", "--set", "data.resolution=64", *SMALL], {}, "dataset own", "`ganline run` makes it anew",
    ),
    "train on a dataset that fills no batch": (["train", "own.yaml"], {}, "dataset own", "lower training.batch"),
    "no registry yet": (["lookup", "mnist@champion"], {}, "registry", "ganline run"),
    "no model to generate with": (["generate", "mnist@champion"], {}, "registry", "ganline run"),
    "no model to roll back": (["rollback", "mnist"], {}, "registry", "ganline run"),
    "no run to evaluate": (["evaluate", "mnist-123"], {}, "registry", "ganline run"),
    "no run to release": (["release", "mnist-123"], {}, "mnist-123", "ganline run"),
    "no run to fork": (["run", "own.yaml", "--fork", "own-123@4", *SMALL], {}, "own-123", "ganline run"),
    "no run to show": (["runs", "show", "own-123"], {}, "own-123", "ganline run"),
    "no run to prune": (["runs", "prune", "own-123", "--yes"], {}, "own-123", "ganline run"),
    "options of runs before its command": (["runs", "--json", "list"], {}, "after the command", "ganline runs list"),
    "no dataset to verify": (["verify", "mnist"], {}, "mnist", "there are: own"),
    "no such tar": (["index", "own", "t-{00..03}.tar"], {}, "t-00.tar", "check"),
    "a folder of tars": (["index", "own", "images"], {}, "images", "*.tar"),
    "a key in a URI": (["index", "own", "s3://a:b@c/t.tar"], {}, "URI", "AWS_"),
    "unknown init": (["run", "own.yaml", "--set", "training.init=a@champion", *SMALL], {}, "registry", "ganline run"),
    "option that is not there": (["run", "mnist", "--fast"], {}, "--fast", "--help"),
    "option without its value": (["generate", "mnist", "-n"], {}, "-n", "--help"),
    "MLflow does not answer": (["run", "mnist"], {"MLFLOW_TRACKING_URI": DEAD}, "MLFLOW_TRACKING_URI", "unset"),
    "MLflow of a kind it gave up": (
        ["run", "mnist"], {"MLFLOW_TRACKING_URI": "file:///nowhere"}, "file:///nowhere", "unset MLFLOW_TRACKING_URI",
    ),
    "MLflow's database is none": (
        ["run", "mnist"], {"MLFLOW_TRACKING_URI": "sqlite:///broken.zip"}, "broken.zip", "unset MLFLOW_TRACKING_URI",
    ),
    "Prefect does not answer": (["run", "mnist"], {"PREFECT_API_URL": f"{DEAD}/api"}, "PREFECT_API_URL", "unset"),
    "Ray does not answer": (["run", "mnist"], {"RAY_ADDRESS": DEAD[7:]}, "RAY_ADDRESS", "unset"),
}  # fmt: skip


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder as people have them, with a few traps in it, and the dataset of its images."""
    folder = tmp_path_factory.mktemp("folder")
    (folder / "broken.yaml").write_text("name: [")
    (folder / "empty.yaml").write_text("")
    (folder / "nameless.yaml").write_text("data: {source: images}")
    (folder / "own.yaml").write_text(RECIPE)
    (folder / "broken.zip").write_bytes(b"PK\x03\x04 and no more")
    for name in ("images", "texts", "nothing"):
        (folder / name).mkdir()
    (folder / "texts/a.png").write_text("no image")
    for i in range(20):
        pixels = np.random.default_rng(i).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"images/{i}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(on_ray, "cluster", nullcontext)
        patch.setattr(on_ray, "run_tasks", lambda function, shared, each: (function(shared, one) for one in each))
        patch.chdir(folder)
        on_ray.shard_images(Storage("root"), "own", load_config("own.yaml").data)
    return folder


@pytest.fixture
def folder(embedded, prepared):
    shutil.copytree(prepared, embedded.folder, dirs_exist_ok=True)
    return embedded


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_changes_nothing(folder, mistake):
    arguments, env, names, offers = MISTAKES[mistake]
    before = sorted(folder.root.rglob("*"))
    result = folder(*arguments, **env)
    lines = result.err.splitlines()
    assert result.code == 2, result.err
    assert len(lines) == 1 and names in lines[0] and offers in lines[0], result.err
    assert result.out == ""
    assert sorted(folder.root.rglob("*")) == before
