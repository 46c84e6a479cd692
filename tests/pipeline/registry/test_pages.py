"""Pages on releases are deleted from MLflow with the images that they show, or it is said that they are not."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from pipeline.registry.pages import drop_pages
from pipeline.registry.releases import log_evaluation, name_page
from pipeline.registry.reported import EVALUATION, PAGE
from pipeline.registry.trained_on import TrainedOn

FILES = {"index.html": b"<p>with training images", "neighbours.png": b"a training image"}


@pytest.fixture(params=["embedded", "served"])
def there(request, monkeypatch):
    """A world whose artifacts are on this disk, and one whose artifacts a server keeps."""
    if request.param == "embedded":
        return request.getfixturevalue("world")
    served = request.getfixturevalue("served")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", served.server.uri)
    return served.up()


def released(world, model: str, *pages: str) -> TrainedOn:
    """A version with an evaluation and these pages."""
    version = world.release(model, 0)
    chosen = world.client.get_model_version(model, str(version))
    for key, value in log_evaluation(world.client, chosen, b"{}").items():
        world.client.set_model_version_tag(model, str(version), key, value)
    for page in pages:
        name_page(world.client, model, version, page, FILES)
    return TrainedOn(model, version, (), world.run_id, "d" * 64)


def names(world) -> set[str]:
    return {entry.path for entry in world.client.list_artifacts(world.run_id, "release")}


def test_they_and_the_tag_that_names_them_go_and_all_else_stays(there):
    release = released(there, "paged", "a" * 64, "b" * 64)
    other = released(there, "unpaged")
    before = names(there)
    pages = {"release/page-" + "a" * 12, "release/page-" + "b" * 12}
    assert pages < before
    assert drop_pages(there.client, [release, other]) == []
    assert names(there) == before - pages
    tags = there.client.get_model_version("paged", "1").tags
    assert PAGE not in tags and tags[EVALUATION].startswith("release/")
    assert drop_pages(there.client, [release, other]) == []  # again


def test_one_that_stays_is_told_of_and_is_deleted_by_the_next_call(world):
    release = released(world, "kept", "c" * 64, "e" * 64)
    place = Path(unquote(urlsplit(world.client.get_run(world.run_id).info.artifact_uri).path), "release")
    (place / ("page-" + "c" * 12)).rename(place / "away")
    (place / ("page-" + "c" * 12)).symlink_to(place / "away")  # which is not deleted as folders are
    (said,) = drop_pages(world.client, [release])
    assert said.startswith(f"release/page-{'c' * 12} of MLflow's run {world.run_id}: ")
    assert f"release/page-{'e' * 12}" not in names(world)  # it did not wait for the other
    assert PAGE in world.client.get_model_version("kept", "1").tags
    (place / ("page-" + "c" * 12)).unlink()
    (place / "away").rename(place / ("page-" + "c" * 12))
    assert drop_pages(world.client, [release]) == [] and PAGE not in world.client.get_model_version("kept", "1").tags


def test_releases_whose_run_is_gone_have_none(world):
    release = released(world, "orphan")
    assert (
        drop_pages(world.client, [TrainedOn("orphan", release.version, (), run, "d" * 64) for run in ("", "f" * 32)])
        == []
    )
