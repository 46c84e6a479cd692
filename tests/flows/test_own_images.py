"""A folder as people have them: mixed sizes and modes, and a few files that are no images."""

import csv
import json
import tarfile

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from ganmodels.saving import from_bytes
from pipeline.registry import load
from pipeline.storage import Storage

RECIPE = """
name: own
data: {source: images, resolution: 32}
model: {family: resnet, width: 8, bigan: true}
training: {images: 256, batch: 16, loss: relativistic, r1: 1.0, r2: 1.0, penalty_every: 1, checkpoint_every: 128}
evaluation: {images: 200}
cluster: {workers: 0, cpus_per_worker: 1}
"""
MODES = ["RGB", "RGBA", "L", "LA", "P", "1", "I;16", "CMYK"]


def _folder(path):
    rng = np.random.default_rng(0)
    path.mkdir()
    for i in range(300):
        size = tuple(int(n) for n in rng.integers(20, 90, 2))
        image = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 4), dtype=np.uint8))
        mode = MODES[i % len(MODES)]
        if mode == "I;16":
            image = Image.fromarray(rng.integers(0, 65536, (size[1], size[0]), dtype=np.uint16))
        elif mode == "CMYK":  # which PNG does not know
            image = image.convert("RGB")
        else:
            image = image.convert(mode)
        image.save(path / f"{i:03d}.png")
    whole = (path / "000.png").read_bytes()
    (path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (path / "text.png").write_text("this is not an image")
    (path / "empty.png").write_bytes(b"")


def test_a_folder_becomes_a_generator_and_the_bad_files_go_to_quarantine(embedded, monkeypatch):
    _folder(embedded.folder / "images")
    (embedded.folder / "own.yaml").write_text(RECIPE)
    outcome = embedded("run", "own.yaml", "--json").json
    dataset = outcome["dataset"]
    assert dataset["samples"] == 300 and dataset["classes"] == []
    assert dataset["quarantined"] == 3
    version = embedded.root / "datasets/own/versions" / dataset["digest"]
    quarantine = {row["path"]: row["reason"] for row in pq.read_table(version / "quarantine.parquet").to_pylist()}
    assert set(quarantine) == {"cut.png", "text.png", "empty.png"}
    assert quarantine["empty.png"] == "empty" and quarantine["text.png"] == "not_an_image"
    assert outcome["release"]["promoted"] is True
    assert {"loss_g", "loss_d", "r1", "r2"} <= set(outcome["metrics"])

    made = embedded("generate", "own@champion", "-n", 5, "--seed", 3, "--out", "made", "--json").json
    assert made["images"] == 5
    rows = list(csv.DictReader((embedded.folder / "made/labels.csv").open()))
    assert [row["file"] for row in rows] == [f"{i:05d}.png" for i in range(5)]
    _maps_back(embedded, monkeypatch)
    assert all(Image.open(embedded.folder / "made" / row["file"]).size == (32, 32) for row in rows)
    embedded("generate", "own", "-n", 3, "--seed", 3, "--out", "fewer")
    for i in range(3):  # image i depends on the seed and i alone, to one grey level
        one, other = (np.asarray(Image.open(embedded.folder / f"{folder}/{i:05d}.png")) for folder in ("made", "fewer"))
        assert np.abs(one.astype(int) - other).max() <= 1
    _looks_at_what_is_there(embedded, outcome)
    _say_what_made_them(embedded)
    assert embedded("generate", "own", "--label", "cat").code == 2
    grid = embedded("generate", "own", "-n", 16, "--out", "grid.png")
    assert grid.code == 0 and Image.open(embedded.folder / "grid.png").size == (8 * 32, 2 * 32)
    assert embedded.left_running() == []


def _say_what_made_them(embedded):
    """Pictures in each form, and the model card; many pictures are those of a folder."""
    told = {"Software": "Ganline", "ganline.model": "own", "ganline.version": "1", "ganline.seed": "3"}
    made = embedded.folder / "made"
    arguments = ["generate", "own@champion", "-n", 40, "--seed", 3, "--out", "many", "--shards", "--shard-images", 16]
    many = embedded(*arguments, "--json").json
    assert (many["images"], many["shards"]) == (40, {"written": 3, "kept": 0})
    with tarfile.open(embedded.folder / "many/images-000000.tar") as tar, Image.open(made / "00004.png") as alone:
        in_tar = Image.open(tar.extractfile("000000004.png"))
        assert in_tar.text == alone.text == {**told, "ganline.index": "4"}
        assert np.abs(np.asarray(in_tar, int) - np.asarray(alone, int)).max() <= 1  # of one thread there, of all here
    other = embedded(*arguments, "--truncation", 0.5)
    assert other.code == 2 and "truncation 1.0, not 0.5" in other.err

    exported = embedded("export", "own", "--out", "own.onnx", "--json").json
    assert exported["bytes"] == (embedded.folder / "own.onnx").stat().st_size
    (card,) = embedded.root.rglob("MODEL_CARD.md")
    text = card.read_text()
    assert "# own, version 1" in text and "was made the champion" in text and "there was no champion" in text
    assert "| images seen in training | 256 |" in text and "not stated" in text


def _maps_back(embedded, monkeypatch):
    """The release has the averaged encoder of the checkpoint."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    generator = load("own", Storage(str(embedded.root)))
    saved = from_bytes((embedded.checkpoints()[-1] / "encoder_ema.safetensors").read_bytes())
    assert all(tensor.equal(saved[name]) for name, tensor in generator.encoder.state_dict().items())
    latents = generator.encode(generator.sample(3))
    assert latents.shape == (3, 64) and np.isfinite(latents).all()


def _looks_at_what_is_there(embedded, outcome):
    """The commands that have nothing to do after a run, and say so."""
    before = {path for path in embedded.root.rglob("*") if path.is_file()}
    plan = embedded("run", "own.yaml", "--dry-run", "--json").json
    assert list(plan["parameters"]) == ["generator", "discriminator", "encoder"]
    assert plan["source"] == {"images": 303, "classes": 0, "to_read": 0} and plan["steps"] == 16
    assert plan["reused"] == {
        "dataset": outcome["dataset"]["digest"], "run": outcome["run"]["id"], "from_image": outcome["run"]["images"],
    }  # fmt: skip
    checked = embedded("verify", "own", "--json").json
    assert checked["ok"] and checked["problems"] == [] and checked["samples"] == 300
    doctor = embedded("doctor", "--json")
    found = {check["name"]: check for check in json.loads(doctor.out)["checks"]}
    assert doctor.code == (0 if all(check["ok"] for check in found.values()) else 1)
    assert found["storage"]["ok"] and str(embedded.root) in found["storage"]["detail"]
    assert {path for path in embedded.root.rglob("*") if path.is_file()} == before

    shards = embedded("shard", "images", "--name", "own", "--resolution", 32, "--json").json
    assert (shards["digest"], shards["shards_written"]) == (outcome["dataset"]["digest"], 0)
    trained = embedded("train", "own.yaml", "--json").json["run"]
    assert trained["reused"] and trained["mlflow_run_id"] == outcome["run"]["mlflow_run_id"]
    runs = {path for path in embedded.root.glob("runs/**/*") if path.is_file()}
    assert runs == {path for path in before if "runs" in path.parts}
