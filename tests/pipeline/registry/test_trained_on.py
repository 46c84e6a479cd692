from pipeline.registry import versions
from pipeline.registry.named import released_datasets
from pipeline.registry.releases import promote
from pipeline.registry.trained_on import releases_trained_on


def test_every_release_of_a_dataset_version_is_found_with_its_aliases(world, monkeypatch):
    monkeypatch.setattr(versions, "_PAGE", 1)  # more than one page
    for model in ("known-b", "known-a"):
        for seed in (0, 1):
            promote(world.client, model, world.release(model, seed))
    found = [one for one in releases_trained_on(world.client, {"d" * 64, "e" * 64}) if one.model.startswith("known-")]
    assert [(one.model, one.version, one.aliases) for one in found] == [
        ("known-a", 1, ("previous",)), ("known-a", 2, ("champion",)),
        ("known-b", 1, ("previous",)), ("known-b", 2, ("champion",)),
    ]  # fmt: skip
    assert {(one.run_id, one.dataset) for one in found} == {(world.run_id, "d" * 64)}
    named = released_datasets(world.client)["d" * 64]
    assert "known-a version 1, known-a version 2, known-b version 1" in named
    assert releases_trained_on(world.client, {"e" * 64}) == releases_trained_on(world.client, set()) == []
