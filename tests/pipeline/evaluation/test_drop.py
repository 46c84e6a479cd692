"""Dropping what is kept of a dataset's images: theirs and nobody else's."""

from pipeline.evaluation.drop import drop_evaluations
from pipeline.storage import Storage


def test_features_of_these_datasets_go_and_those_that_do_not_say_whose_they_are(tmp_path):
    storage = Storage(str(tmp_path))
    kept = {
        "real/mine": {"dataset": "1" * 64},
        "real/another": {"dataset": "2" * 64},
        "real/older": {"sha256": "x"},
        "generated/mine": {"report": {"dataset": {"name": "a", "digest": "1" * 64}}},
        "generated/another": {"report": {"dataset": {"name": "a", "digest": "2" * 64}}},
        "generated/odd": [],
        "classifiers/mine": {"dataset": "1" * 64, "held_out_accuracy": 0.9},
        "classifiers/another": {"dataset": "2" * 64, "held_out_accuracy": 0.9},
    }
    for path, told in kept.items():
        storage.write_json(f"evaluations/{path}.json", told)
        storage.write(f"evaluations/{path}.safetensors", b"features")
    storage.write("evaluations/classifiers/cut-off.safetensors", b"by one that was killed before it said of what")
    drop_evaluations(storage, {"1" * 64})
    left = {path.stem + path.suffix for path in tmp_path.rglob("*.*")}
    assert left == {"another.json", "another.safetensors"}
    assert len(list(tmp_path.rglob("another.*"))) == 6


def test_pages_that_show_them_go_too(tmp_path):
    storage = Storage(str(tmp_path))
    for page in ("mine", "another", "older"):
        storage.write(f"evaluations/pages/{page}/index.html", b"with training images")
    for page, dataset in (("mine", "1" * 64), ("another", "2" * 64), ("cut-off", "1" * 64)):
        storage.write_json(f"evaluations/pages/{page}.json", {"dataset": dataset})
    drop_evaluations(storage, {"1" * 64})
    assert {entry.path.rpartition("/")[2] for entry in storage.list("evaluations/pages")} == {"another", "another.json"}
    assert storage.exists("evaluations/pages/another/index.html")
