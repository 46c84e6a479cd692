import json

import numpy as np
import pytest
import torch

from ganmodels.randomness import image_latents
from pipeline.errors import UserError
from pipeline.registry import load
from pipeline.registry.artifact import ArtifactError
from pipeline.registry.generator import Generator
from pipeline.registry.lookup import lookup, parse
from pipeline.registry.releases import promote
from pipeline.storage import Storage, cache_root


def artifact(world, model: str, version: int, name: str = "generator.safetensors"):
    logged = world.client.get_model_version(model, str(version)).source.split("/")[-2]
    (path,) = world.storage.local_path("mlartifacts").rglob(f"{logged}/artifacts/artifacts/{name}")
    return path


def flip(path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def expected(network: torch.nn.Module, n: int, z_dim: int) -> np.ndarray:
    """Straight from the definition, in one batch of `n` rows."""
    with torch.no_grad():
        x = network(image_latents(0, n, z_dim, seed=7), torch.arange(n) % 2)
    return ((x + 1) * 127.5).round().clamp(0, 255).permute(0, 2, 3, 1).numpy().astype(np.uint8)


def test_a_release_carries_its_encoder_back_from_images_to_latents(world):
    version, encoder = world.release_with_encoder("both-ways")
    assert world.release_with_encoder("both-ways")[0] == version
    generator = load(f"both-ways@{version}", world.storage)
    images = generator.sample(70)
    latents = generator.encode(images)
    assert (latents.dtype, latents.shape) == (np.float32, (70, 5))
    with torch.inference_mode():
        expected = encoder(torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1).numpy()
    np.testing.assert_allclose(latents, expected, rtol=1e-4, atol=1e-5)
    assert expected.std() > 0.1
    np.testing.assert_allclose(generator.encode(images[9:11]), latents[9:11], rtol=1e-4, atol=1e-5)
    assert generator.encode(images[:0]).shape == (0, 5)


@pytest.mark.parametrize("wrong", [np.zeros((2, 16, 16, 1), np.uint8), np.zeros((2, 16, 16, 3)), np.uint8(3)])
def test_images_that_the_encoder_cannot_take_are_named(world, wrong):
    version, _ = world.release_with_encoder("both-ways")
    with pytest.raises(ValueError, match=r"images are (uint8|float64) \(.*, not uint8 \(n, 16, 16, 3\)"):
        load(f"both-ways@{version}", world.storage).encode(wrong)


def test_a_release_without_an_encoder_says_so_in_one_line(world):
    version = world.release("one-way", 0)
    generator = load(f"one-way@{version}", world.storage)
    with pytest.raises(UserError, match=r"^one-way version 1 has no encoder; train one with .*model\.bigan true$"):
        generator.encode(generator.sample(1))


def test_an_encoder_in_the_cache_is_healed_and_a_tampered_one_refused(world):
    version, _ = world.release_with_encoder("guarded")
    images = load(f"guarded@{version}", world.storage).sample(3)
    latents = load(f"guarded@{version}", world.storage).encode(images)
    cached = cache_root(world.storage) / "models" / "guarded" / str(version) / "encoder.safetensors"
    flip(cached)
    np.testing.assert_array_equal(load(f"guarded@{version}", world.storage).encode(images), latents)
    cached.unlink()
    flip(artifact(world, "guarded", version, "encoder.safetensors"))
    with pytest.raises(ArtifactError, match=f"guarded/{version}/encoder.safetensors"):
        load(f"guarded@{version}", world.storage)


def test_registering_again_gives_the_same_version(world):
    assert world.release("twice", 0) == world.release("twice", 0) == 1
    assert world.release("twice", 1) == 2
    assert world.release("twice", 0) == 1
    assert len(world.client.search_model_versions("name = 'twice'")) == 2


def test_an_interrupted_registration_leaves_no_version(world, monkeypatch):
    def die(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(world.client, "create_model_version", die)
        with pytest.raises(KeyboardInterrupt):
            world.release("interrupted", 0)
    assert world.client.search_model_versions("name = 'interrupted'") == []
    assert world.release("interrupted", 0) == 1


def test_promotion_keeps_the_previous_and_writes_the_decision(world):
    first, second = world.release("ladder", 0), world.release("ladder", 1)
    assert promote(world.client, "ladder", first).promoted
    aliases = world.client.get_registered_model("ladder").aliases
    assert {alias: int(version) for alias, version in aliases.items()} == {"champion": first}
    release = promote(world.client, "ladder", second, "better by far")
    assert promote(world.client, "ladder", second) == release
    assert (release.alias, release.version, release.reason) == ("champion", second, "better by far")
    aliases = world.client.get_registered_model("ladder").aliases
    assert {a: int(v) for a, v in aliases.items()} == {"champion": second, "previous": first}
    tags = world.client.get_model_version("ladder", str(second)).tags
    decision = {"promoted": True, "reason": "better by far", "rule": "unconditional", "figures": {}, "against": first}
    assert decision.items() <= json.loads(tags["ganline.decision"]).items()
    assert (tags["ganline.promoted"], tags["ganline.reason"]) == ("true", "better by far")


def test_loaded_generator_makes_the_trained_networks_images(world):
    promote(world.client, "same", world.release("same", 0))
    generator = load("same@champion", world.storage)
    images = generator.sample(64, seed=7)
    assert images.dtype == np.uint8
    assert images.shape == (64, 16, 16, 1)
    assert images.std() > 10
    np.testing.assert_array_equal(images, expected(world.network(0), 64, world.spec.z_dim))
    assert (generator.spec, generator.class_names) == (world.spec, ("off", "on"))
    found = lookup("same@v1", world.storage)
    assert (found.version, found.alias, found.run_id) == (1, None, world.run_id)
    assert (found.dataset, found.config) == ("d" * 64, "c" * 64)
    assert generator.found == lookup("same", world.storage)


def test_image_i_depends_on_the_seed_and_i_alone(world):
    generator = Generator(world.network(0), world.spec)
    images = generator.sample(150, seed=3)
    np.testing.assert_array_equal(generator.sample(5, seed=3), images[:5])
    np.testing.assert_array_equal(generator.sample(90, seed=np.int64(3), first=np.int64(41)), images[41:131])
    np.testing.assert_array_equal(generator.sample(1, 3, labels=1, first=77)[0], images[77])
    assert (generator.sample(5, seed=4) != images[:5]).any(axis=(1, 2, 3)).all()
    assert (generator.sample(5, seed=3, labels=[1, 0, 1, 0, 1]) != images[:5]).any(axis=(1, 2, 3)).all()
    still = generator.sample(4, truncation=0.0, labels=0)
    assert (still == still[0]).all()
    assert generator.sample(0).shape == (0, 16, 16, 1)


def test_image_i_is_always_the_same_row_of_a_full_batch(world):
    """What rounding to uint8 mostly hides: another batch size or row may round the last bits otherwise."""

    class ItsRow(torch.nn.Module):
        def forward(self, z, labels, truncation=1.0):
            assert len(z) == len(labels) == 64
            return (torch.arange(64.0) / 127.5 - 1)[:, None, None, None].expand(-1, 1, 16, 16)

    images = Generator(ItsRow(), world.spec).sample(70, first=62)
    assert images[:, 0, 0, 0].tolist() == [62, 63, *range(64), 0, 1, 2, 3]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"labels": 2}, "label 2 "),
        ({"labels": [0, 1, -1]}, "label -1 "),
        ({"labels": [0, 1]}, r"\(2,\)"),
        ({"labels": [0.5, 1, 1]}, "0.5"),
        ({"truncation": float("nan")}, "truncation nan"),
        ({"first": -1}, "first -1"),
    ],
)
def test_a_bad_argument_is_named(world, arguments, named):
    with pytest.raises(ValueError, match=named):
        Generator(world.network(0), world.spec).sample(3, **arguments)


def test_a_generator_loaded_before_comes_without_asking_for_figures_again_and_a_lookup_with_the_latest(world):
    promote(world.client, "figured", world.release("figured", 0))
    world.client.log_metric(world.run_id, "figured", 1.0)
    assert load("figured", world.storage).found.metrics["figured"] == 1.0
    world.client.log_metric(world.run_id, "figured", 2.0, step=1)
    assert load("figured", world.storage).found.metrics["figured"] == 1.0
    assert lookup("figured", world.storage).metrics["figured"] == 2.0
    promote(world.client, "figured", world.release("figured", 1))  # another release is not known
    assert load("figured", world.storage).found.metrics["figured"] == 2.0


def test_a_cached_release_needs_no_artifact_store(world):
    version = world.release("cached", 0)
    images = load(f"cached@{version}", world.storage).sample(3)
    artifact(world, "cached", version).parent.rename(world.storage.local_path("elsewhere"))
    np.testing.assert_array_equal(load(f"cached@{version}", world.storage).sample(3), images)


@pytest.mark.parametrize("name", ["generator.safetensors", "spec.json"])
def test_a_flipped_byte_in_the_cache_is_healed(world, name):
    version = world.release("healed", 0)
    images = load(f"healed@{version}", world.storage).sample(3)
    cached = cache_root(world.storage) / "models" / "healed" / str(version) / name
    flip(cached)
    np.testing.assert_array_equal(load(f"healed@{version}", world.storage).sample(3), images)
    assert cached.read_bytes() == artifact(world, "healed", version, name).read_bytes()


@pytest.mark.parametrize(("name", "seed"), [("generator.safetensors", 0), ("spec.json", 1)])
def test_a_flipped_byte_in_the_artifact_is_refused(world, name, seed):
    version = world.release("tampered", seed)
    flip(artifact(world, "tampered", version, name))
    with pytest.raises(ArtifactError, match=f"tampered/{version}/{name}"):
        load(f"tampered@{version}", world.storage)
    assert not (cache_root(world.storage) / "models" / "tampered" / str(version) / name).exists()


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("nobody@champion", "no model nobody; there is .*known"),
        ("known@best", "no alias best; it has champion"),
        ("known@9", "no version 9; it has 1"),
        ("../known@1", "no model name"),
        ("..@1", "no model name"),
        ("known\n@1", "no model name"),
        ("known@", "is no release"),
        ("foreign@1", "Ganline did not release it"),
    ],
)
def test_what_is_not_there_is_named_with_what_is(world, reference, said):
    promote(world.client, "known", world.release("known", 0))
    if not world.client.search_model_versions("name = 'foreign'"):
        world.client.create_registered_model("foreign")
        world.client.create_model_version("foreign", "file:///nowhere")
    with pytest.raises(UserError, match=said) as error:
        load(reference, world.storage)
    assert "\n" not in str(error.value)


def test_looking_up_where_nothing_is_leaves_nothing_behind(tmp_path, here):
    with pytest.raises(UserError, match="no model registry"):
        lookup("mnist@champion", Storage(str(tmp_path / "root")))
    assert list(tmp_path.iterdir()) == []
    assert here() == []


def test_references():
    assert parse("mnist") == parse("mnist@champion") == ("mnist", "champion")
    assert parse("mnist@3") == parse("mnist@v3") == ("mnist", 3)
