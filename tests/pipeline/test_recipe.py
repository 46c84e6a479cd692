"""Recipes: what is understood, and what is refused and how."""

import pytest
import torch

from ganmodels.networks import build_discriminator, build_generator
from pipeline.config import Config, Evaluation
from pipeline.errors import UserError
from pipeline.recipe import load_config, parse_config, presets, with_evaluation
from pipeline.scheduled import value_at

DATASET = "0" * 64


@pytest.fixture
def recipe(tmp_path):
    def write(text: str) -> str:
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        return str(path)

    return write


def test_a_name_is_all_that_a_recipe_needs(recipe):
    config = load_config(recipe("name: digits"))
    assert config == Config(name="digits")
    assert (config.data.resolution, config.training.batch, config.storage) == (28, 64, None)
    assert config.model_name == "digits"
    assert load_config(recipe("name: digits\nrelease: {model: faces}")).model_name == "faces"


@pytest.mark.parametrize("name", presets())
def test_every_preset_loads_builds_and_survives_its_own_json(name):
    config = load_config(name)
    assert config.name == name
    # What a run's record holds gives the same recipe again.
    again = parse_config(config.model_dump(mode="json"), "record")
    assert again == config and again.digest() == config.digest()
    for classes in (0, 10):
        spec = config.network_spec(config.data.channels or 0, classes)
        assert spec.classes == classes
        with torch.device("meta"):
            networks = build_generator(spec), build_discriminator(spec)
        assert all(weight.is_meta for network in networks for weight in network.parameters())


def test_there_are_the_presets_that_the_documents_name():
    assert {
        "mnist", "small", "stacked-mnist", "emoji64", "cifar10", "ffhq64", "ffhq256", "imagenet64",
        "ffhq256-stylegan2-ada",
    } == set(presets())  # fmt: skip


@pytest.mark.parametrize(
    ("name", "classes", "counts"),
    [
        ("cifar10", 0, (20_732_160, 20_683_776)),  # Huang et al. 2024
        ("cifar10", 10, (20_781_952, 21_280_512)),
        ("ffhq256-stylegan2-ada", 0, (24_767_458, 24_001_089)),  # Karras et al. 2020
    ],
)
def test_a_published_recipe_has_networks_of_the_published_size(name, classes, counts):
    spec = load_config(name).network_spec(3, classes)
    with torch.device("meta"):
        networks = build_generator(spec), build_discriminator(spec)
    assert tuple(sum(weight.numel() for weight in network.parameters()) for network in networks) == counts


def test_stacked_digits_without_their_recipe_are_the_yardstick_of_it():
    """tests/benchmarks/stacked_mnist.py: the same networks and images, so that the objectives alone differ."""
    ours = load_config("stacked-mnist")
    beside = load_config("stacked-mnist", ["training.loss=non_saturating", "training.r2=0"])
    assert ours.training.loss == "relativistic" and ours.training.r1 == ours.training.r2 == beside.training.r1
    assert (ours.data, ours.model) == (beside.data, beside.model)


def test_how_a_recipe_was_written_does_not_make_another_run(recipe):
    one = load_config(recipe("name: a\ntraining: {r1: 1, learning_rate: 1e-3}\ndata: {resolution: 28}"))
    two = load_config(recipe("data: {source: mnist5k}\nname: a"), ["training.learning_rate=0.001", "training.r1=1.0"])
    assert one == two and one.run_name(DATASET, "fp32") == two.run_name(DATASET, "fp32")


# --set


@pytest.mark.parametrize(
    ("override", "section", "key", "value"),
    [
        ("training.images=1000", "training", "images", 1000),
        ("training.images=1_000", "training", "images", 1000),
        ("training.learning_rate=0.01", "training", "learning_rate", 0.01),
        # YAML 1.1 takes these two for text: they must become numbers all the same.
        ("training.learning_rate=1e-3", "training", "learning_rate", 0.001),
        ("training.ema_half_life=1e4", "training", "ema_half_life", 10_000.0),
        ("training.r1=2", "training", "r1", 2.0),
        ("model.conditional=true", "model", "conditional", True),
        ("model.conditional=null", "model", "conditional", None),
        ("model.family=resnet", "model", "family", "resnet"),
        ("data.resolution=null", "data", "resolution", 28),
        ("data.source=/a b/c=d", "data", "source", "/a b/c=d"),
        ("data.source='2024'", "data", "source", "2024"),
        ("cluster.workers=2", "cluster", "workers", 2),
        ("release.model=faces", "release", "model", "faces"),
    ],
)
def test_set_takes_yaml_values(recipe, override, section, key, value):
    config = load_config(recipe("name: a"), [override])
    found = getattr(getattr(config, section), key)
    assert found == value and type(found) is type(value)


def test_a_schedule_is_read_and_comes_back_as_it_was_written(recipe):
    """YAML 1.1 takes 2e7 and 5e-5 for text, too."""
    text = "name: a\ntraining: {learning_rate: {from: 2.0e-4, to: 5e-5, over: 2e7}, r1: {from: 2, to: 0.2, over: 1000}}"
    config = load_config(recipe(text), ["training.r1.shape=ramp"])
    record = config.model_dump(mode="json")
    assert record["training"]["learning_rate"] == {"from": 2e-4, "to": 5e-5, "over": 2e7, "shape": "cosine"}
    assert parse_config(record, "record") == config
    training = config.training
    assert [value_at(training.learning_rate, images) for images in (0, 10**7, 10**8)] == [2e-4, 1.25e-4, 5e-5]
    assert [value_at(training.r1, images) for images in (0, 500, 1000)] == [2.0, 1.1, 0.2]
    assert value_at(training.ema_half_life, 500) == 10_000


def test_set_reaches_the_top_and_the_last_one_wins(recipe):
    config = load_config(recipe("name: a\ntraining: {batch: 8}"), ["name=b", "training.batch=16", "training.batch=32"])
    assert (config.name, config.training.batch) == ("b", 32)


def test_set_changes_nothing_beside_its_key(recipe):
    text = "name: a\ntraining: {batch: 8, r1: 3.0}"
    changed = load_config(recipe(text), ["training.seed=7"])
    same = load_config(recipe(text))
    assert changed.model_dump() == {
        **same.model_dump(),
        "training": {**same.training.model_dump(), "seed": 7},
    }


def test_a_source_set_by_hand_brings_its_own_defaults(recipe):
    assert load_config(recipe("name: a"), ["data.source=folder"]).data.resolution == 64


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("training.images", "--set training.images: write it as section.key=value"),
        ("=3", "--set =3: write it as section.key=value"),
        ("training.=3", "--set training.=3: write it as section.key=value"),
        ("data.source.x=1", "--set data.source.x=1: source is not a section"),
        ("name.x=1", "--set name.x=1: name is not a section"),
        ("training.batch=[", "--set training.batch=[: the value is not YAML"),
    ],
)
def test_a_malformed_set_is_told_as_it_was_written(recipe, override, said):
    with pytest.raises(UserError) as error:
        load_config(recipe("name: a\ndata: {source: mnist5k}"), [override])
    assert str(error.value) == said


# What is refused


@pytest.mark.parametrize(
    "key", ["colour", "data.colour", "model.colour", "training.colour", "release.colour", "cluster.colour"]
)
def test_an_unknown_key_is_named_with_its_place(recipe, key):
    with pytest.raises(UserError, match=rf"recipe\.yaml: {key}: no such key; `ganline config show mnist`"):
        load_config(recipe("name: a"), [f"{key}=1"])


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("training.batch=60", "training.batch 60 is not a multiple of data.streams 8"),
        ("data.streams=7", "training.batch 64 is not a multiple of data.streams 7"),
        ("cluster.workers=9", "cluster.workers 9 is more than data.streams 8"),
        ("cluster.workers=1-9", "cluster.workers 1-9 is more than data.streams 8"),
        ("cluster.workers=4-1", "cluster.workers: write a number, or the fewest and the most, such as 1-4 (it is "),
        ("cluster.workers=-1", "cluster.workers: write a number, or the fewest and the most, such as 1-4 (it is "),
        ("cluster.workers=true", "cluster.workers: write a number, or the fewest and the most, such as 1-4 (it is "),
        ("training.profile=9-3", "training.profile: write the first and the last step, such as 100-110, not 9-3"),
        ("training.plateau=3", "training.plateau has no meaning without training.evaluate_images"),
        ("training.evaluate_images=3", "training.evaluate_images is 0 or 4 at least"),
        ("cluster.environment.FOO=bar", "cluster.environment: FOO is no setting of NCCL or gloo"),
        ("training.batch=0", "training.batch: Input should be greater than 0 (it is 0)"),
        ("training.batch=6.5", "training.batch: "),
        ("training.batch=", "training.batch: Input should be a valid integer (it is None)"),
        ("data.streams=0", "data.streams: Input should be greater than 0 (it is 0)"),
        ("data.window=0", "data.window: "),
        ("data.resolution=20", "data.resolution: resolution 20 is not 28 or a power of two from 16 to 1024"),
        ("data.resolution=2048", "data.resolution: "),
        # Encoding goes by size, so a size must be a number from the start.
        ("data.resolution='256'", "data.resolution: Input should be a valid integer (it is '256')"),
        ("data.resolution=256.0", "data.resolution: Input should be a valid integer (it is 256.0)"),
        ("data.channels=2", "data.channels: "),
        ("data.held_out=0.6", "data.held_out: "),
        ("data.held_out=.nan", "data.held_out: "),
        ("data.source=", "data.source: "),
        ("data.source=2024", "data.source: Input should be a valid string (it is 2024)"),
        ("data=null", "data: Input should be a valid dictionary"),
        ("training.learning_rate=0", "training.learning_rate: "),
        ("training.learning_rate=.inf", "training.learning_rate: "),
        ("training.learning_rate=fast", "training.learning_rate: "),
        ("training.r1=.inf", "training.r1: "),
        ("training.r1=-1", "training.r1: "),
        ("training.beta1=1", "training.beta1: "),
        ("training.loss=lsgan", "training.loss: Input should be 'saturating', 'non_saturating', 'least_squares'"),
        ("training.penalty_method=fd", "training.penalty_method: Input should be 'exact' or 'finite_difference'"),
        ("training.label_smoothing=1", "training.label_smoothing: Input should be less than 1 (it is 1)"),
        ("training={loss: hinge, label_smoothing: 0.1}", "training: label_smoothing has no meaning for loss hinge"),
        ("training.accumulate=0", "training.accumulate: Input should be greater than 0 (it is 0)"),
        ("training.accumulate=3", "training.accumulate 3 does not divide the 8 rows that training.batch 64 gives each"),
        ("training.gp=-1", "training.gp: Input should be greater than or equal to 0 (it is -1)"),
        (
            "training.learning_rate={from: 1}",
            "training.learning_rate.to: is missing; add it; training.learning_rate.over",
        ),
        ("training.learning_rate={from: 0, to: 0, over: 9}", "training.learning_rate: goes from 0.0 to 0.0; write the"),
        ("training.r1={from: -1, to: 1, over: 9}", "training.r1.from: Input should be greater than or equal to 0"),
        ("training.r2={from: 1, to: 0, over: 0}", "training.r2.over: Input should be greater than 0 (it is 0)"),
        ("training.r1={from: 1, to: 0, over: 9, shape: step}", "training.r1.shape: Input should be 'cosine' or 'ramp'"),
        ("training.r1={from: 1, to: 0, over: 9, ramp: 2}", "training.r1.ramp: no such key; `ganline config show"),
        ("training.beta2={from: 0.9, to: 1, over: 9}", "training.beta2.to: Input should be less than 1 (it is 1)"),
        ("training.ema_half_life=[1]", "training.ema_half_life: Input should be a valid number"),
        ("training.beta1={from: 0, to: 0.5, over: 9}", "training.beta1: Input should be a valid number"),
        ("training.seed=-1", "training.seed: "),
        ("name=a/b", "name: String should match pattern"),
        ("name=../up", "name: String should match pattern"),
        ("release.model=a b", "release.model: String should match pattern"),
    ],
)
def test_a_wrong_value_is_told_in_one_line_with_its_place(recipe, override, said):
    with pytest.raises(UserError) as error:
        load_config(recipe("name: a"), [override])
    assert f"recipe.yaml: {said}" in str(error.value)
    assert "\n" not in str(error.value)


def test_every_mistake_is_told_at_once(recipe):
    with pytest.raises(UserError) as error:
        load_config(recipe("data: {colour: 1}\ntraining: {batch: x}"))
    said = str(error.value)
    assert "name: is missing; add it" in said and "data.colour" in said and "training.batch" in said


@pytest.mark.parametrize("text", ["a: [", "a: b: c", "\t- x", "\x00"])
def test_what_is_not_yaml_is_told_in_one_line(recipe, text):
    with pytest.raises(UserError, match=r"recipe\.yaml is not YAML: ") as error:
        load_config(recipe(text))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "- a", "just words", "3"])
def test_what_holds_no_keys_is_refused(recipe, text):
    with pytest.raises(UserError, match=r"recipe\.yaml holds no keys"):
        load_config(recipe(text))


def test_yaml_builds_no_objects(recipe):
    with pytest.raises(UserError, match="is not YAML"):
        load_config(recipe("name: !!python/object/apply:os.getcwd []"))


def test_a_recipe_that_cannot_be_read_is_told_with_the_presets(tmp_path):
    (tmp_path / "picture.yaml").write_bytes(b"\xff\xfe\x00\x80")
    for path in ("nowhere.yaml", str(tmp_path), str(tmp_path / "picture.yaml")):
        with pytest.raises(UserError, match=r"no recipe .*presets: .*mnist"):
            load_config(path)


def test_one_section_of_a_recipe_is_set_anew_and_no_other(recipe):
    config = load_config(recipe("name: r\nevaluation: {seeds: [3, 4]}"))
    changed = with_evaluation(config, ["evaluation.images=50"])
    assert (changed.evaluation.images, changed.evaluation.seeds, changed.training) == (50, (3, 4), config.training)
    assert with_evaluation(config, None) == config
    module = "{features: /fid.pt, features_sha256: %s, features_pixels: 299, features_range: 0-1}" % ("a" * 64)
    by_module = load_config(recipe(f"name: r\nevaluation: {module}"))
    assert with_evaluation(by_module, ["evaluation.features=own-classifier"]).evaluation == (
        Evaluation(features="own-classifier")
    )
    for override, said in (
        ("training.batch=8", "^--set training.batch=8: only evaluation.key=value means something here$"),
        ("evaluation.images=1", "^--set: evaluation.images: Input should be greater than or equal to 6"),
        ("evaluation.images", "^--set evaluation.images: write it as section.key=value$"),
    ):
        with pytest.raises(UserError, match=said):
            with_evaluation(config, [override])
