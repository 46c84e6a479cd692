"""`ganline forget` and the data gate, as a user meets them."""

import os
import shutil
from pathlib import Path

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when mlflow is imported

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.config import DataGate
from pipeline.registry.runs import log_files
from pipeline.registry.server import client
from pipeline.shards.manifest import DatasetRef, latest_version
from pipeline.storage import Storage
from pipeline.trust.gate import admit


@pytest.fixture(scope="module")
def sharded(tmp_path_factory, make_ganline) -> Path:
    """A folder with 60 images and their dataset, for each test to copy."""
    ganline = make_ganline(tmp_path_factory.mktemp("sharded"))
    draws = np.random.default_rng(0)
    for number in range(60):
        path = ganline.folder / "images" / ("ant" if number < 30 else "bee") / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draws.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
    (ganline.folder / "own.yaml").write_text(
        "name: pets\ndata: {source: images, resolution: 16}\ntraining: {batch: 8, images: 64}\n"
    )
    assert ganline("shard", "images", "--name", "pets", "--resolution", "16", "--json").json["samples"] == 60
    return ganline.folder


@pytest.fixture
def storage(embedded, sharded) -> Storage:
    shutil.copytree(sharded, embedded.folder, dirs_exist_ok=True)
    return Storage(str(embedded.root))


@pytest.fixture
def dataset(storage) -> DatasetRef:
    found = latest_version(storage, "pets")
    assert found is not None
    return found


def test_it_says_first_and_then_does_and_names_the_releases(embedded, storage, dataset):
    first, second = pq.read_table(storage.local_path(f"{dataset.folder}/sources.parquet"))["key"].to_pylist()[:2]
    registry = client(storage)
    registry.create_registered_model("zoo")
    registry.create_model_version("zoo", "file:///nowhere", tags={"ganline.dataset": dataset.digest})
    registry.set_registered_model_alias("zoo", "champion", "1")
    registry.create_model_version("zoo", "file:///nowhere", tags={"ganline.dataset": "e" * 64})
    (embedded.folder / "keys.txt").write_text(f"{second}\n\n{'0' * 32}\n")

    looked = embedded("forget", "pets", first, "--from", "keys.txt", "--json").json
    assert (looked["done"], looked["keys"], looked["stored"]) == (False, 3, 2)
    assert looked["versions"] == {dataset.digest: dataset.digest}
    assert [(one["model"], one["version"], one["aliases"]) for one in looked["releases"]] == [("zoo", 1, ["champion"])]
    assert latest_version(storage, "pets") == dataset

    done = embedded("forget", "pets", first, "--from", "keys.txt", "--yes", "--json").json
    new = latest_version(storage, "pets")
    assert done["done"] and done["versions"] == {dataset.digest: new.digest} != looked["versions"]
    assert done["releases"] == looked["releases"]
    assert embedded("verify", "pets", "--json").json["samples"] == 58

    again = embedded("forget", "pets", first, "--yes")
    assert (again.code, again.out.splitlines()) == (
        0,
        [
            f"release zoo version 1, champion: trained on pets {dataset.digest[:12]}, which had them",
            "pets: removed 0 of 1 images in 0 shards and 0 versions",
        ],
    )


def test_pages_that_show_training_images_go_too_and_one_that_can_not_is_told_of(embedded, storage, dataset):
    (key, *_) = pq.read_table(storage.local_path(f"{dataset.folder}/sources.parquet"))["key"].to_pylist()
    registry = client(storage)
    experiment = registry.create_experiment("pets", (embedded.root / "mlartifacts").as_uri())
    run = registry.create_run(experiment).info.run_id
    page = "release/page-0123456789ab"
    log_files(registry, run, {"index.html": b"with training images"}, page)
    registry.create_registered_model("zoo")
    tags = {"ganline.dataset": dataset.digest, "ganline.page": f"{page}/index.html"}
    registry.create_model_version("zoo", "file:///nowhere", run, tags)
    storage.write("evaluations/pages/abc/index.html", b"with training images")
    storage.write_json("evaluations/pages/abc.json", {"dataset": dataset.digest})

    (folder,) = embedded.root.glob(f"mlartifacts/*/artifacts/{page}")
    folder.rename(embedded.folder / "away")
    folder.symlink_to(embedded.folder / "away")  # which is not deleted as folders are
    assert embedded("forget", "pets", key).code == 0  # looks, and deletes nothing
    assert storage.exists("evaluations/pages/abc/index.html")
    done = embedded("forget", "pets", key, "--yes")
    assert (done.code, len(list(storage.list("evaluations/pages")))) == (1, 0)
    assert f"not deleted, and it may show them: {page} of MLflow's run {run}: " in done.out
    folder.unlink()
    (embedded.folder / "away").rename(folder)
    assert embedded("forget", "pets", key, "--yes", "--json").json["pages_left"] == []
    assert not folder.exists() and "ganline.page" not in registry.get_model_version("zoo", "1").tags


@pytest.mark.parametrize(
    ("arguments", "env", "said"),
    [
        (["forget", "cats", "0" * 32, "--yes"], {}, "there is no dataset cats"),
        (["forget", "pets", "--yes"], {}, "no key was given; name them, or give a file with --from"),
        (["forget", "pets", "ant/1.png"], {}, "'ant/1.png' is no key of an image"),
        (["forget", "pets", "--from", "nowhere.txt"], {}, "--from nowhere.txt: No such file"),
        (["forget", "pets", "0" * 32, "--yes"], {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}, "does not answer"),
    ],
)
def test_a_mistake_is_one_line_and_changes_nothing(embedded, dataset, arguments, env, said):
    files = {path for path in embedded.root.rglob("*") if "logs" not in path.parts}
    result = embedded(*arguments, **env)
    assert result.code == 2 and said in result.err.splitlines()[-1]
    assert {path for path in embedded.root.rglob("*") if "logs" not in path.parts} == files


def test_a_version_that_breaks_a_limit_stops_before_training(embedded, storage, dataset, prefect_url):
    admit(storage, dataset, DataGate())
    for number in range(8):
        (embedded.folder / f"images/ant/{number:02}.png").unlink()
    result = embedded("run", "own.yaml", PREFECT_API_URL=prefect_url)
    said = result.err.splitlines()[-1]
    assert result.code == 2, result.err
    assert "52 images are left of 60, 13.3% fewer; data.gate.drop is 0.1" in said
    assert said.endswith("accept this version once with --set data.gate.drop=0.134")
    assert latest_version(storage, "pets") != dataset
    again = embedded("train", "own.yaml")
    assert (again.code, again.err.splitlines()[-1]) == (2, said)
    assert not (embedded.root / "runs").exists()
