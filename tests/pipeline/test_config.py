"""The configuration tree: its defaults, what its keys name, and which of them make another run."""

from dataclasses import fields
from typing import Any, get_args

import pytest
from pydantic import BaseModel, ValidationError

from ganmodels.ada.plan import Ada
from ganmodels.ada.strength import Heuristic
from ganmodels.losses import LOSSES, SMOOTHED
from ganmodels.networks import FAMILIES
from ganmodels.penalties import METHODS
from pipeline.config import Config, Data, Model, Operation, Section, Training
from pipeline.digest import canonical_json, digest
from pipeline.errors import UserError
from pipeline.recipe import load_config, parse_config

DATASET = "0" * 64


def keys_of(section: type[BaseModel], prefix: str = "") -> list[str]:
    found = []
    for key, info in section.model_fields.items():
        kind = info.annotation
        inner = isinstance(kind, type) and issubclass(kind, Section)
        found += keys_of(kind, f"{prefix}{key}.") if inner else [prefix + key]
    return found


# Defaults


@pytest.mark.parametrize("values", [{}, {"source": "mnist5k"}, {"resolution": None, "channels": None}])
def test_the_built_in_digits_have_their_own_shape(values):
    data = Data.model_validate(values)
    assert (data.source, data.resolution, data.channels, data.encoding) == ("mnist5k", 28, 1, "raw")


def test_stacked_digits_are_28_pixels_of_rgb():
    data = Data.model_validate({"source": "stacked_mnist"})
    assert (data.resolution, data.channels, data.encoding) == (28, 3, "raw")


def test_other_sources_are_64_pixels_of_rgb():
    data = Data.model_validate({"source": "/some/folder"})
    assert (data.resolution, data.channels, data.encoding) == (64, 3, "raw")


def test_what_is_said_beats_the_source():
    data = Data.model_validate({"source": "mnist5k", "resolution": 32, "channels": 3, "encoding": "png"})
    assert (data.resolution, data.channels, data.encoding) == (32, 3, "png")


@pytest.mark.parametrize(("resolution", "encoding"), [(16, "raw"), (128, "raw"), (256, "webp"), (1024, "webp")])
def test_encoding_goes_by_size(resolution, encoding):
    for said in ({}, {"encoding": "auto"}):
        data = Data.model_validate({"source": "x", "resolution": resolution, **said})
        assert data.encoding == encoding


def test_a_config_does_not_change():
    config = Config(name="a")
    with pytest.raises(ValidationError):
        config.name = "b"  # type: ignore[misc]
    with pytest.raises(ValidationError):
        config.training.batch = 8  # type: ignore[misc]


def test_conditional_training_needs_classes():
    config = load_config("mnist", ["model.conditional=true"])
    assert config.network_spec(1, 10).classes == 10
    with pytest.raises(UserError, match=r"model\.conditional is true but the images have no classes"):
        config.network_spec(1, 0)
    assert load_config("mnist", ["model.conditional=false"]).network_spec(1, 10).classes == 0


# What is said here and in ganmodels, whose import would slow every command down


def choices(section: type[Section], key: str) -> set[str]:
    return set(get_args(section.model_fields[key].annotation))


def test_keys_offer_what_the_library_has():
    assert choices(Model, "family") == set(FAMILIES)
    assert choices(Training, "loss") == set(LOSSES)
    assert choices(Training, "penalty_method") == set(METHODS)
    assert set(get_args(Operation)) == {field.name for field in fields(Ada)}
    training = Training(augment="ada")
    assert (training.augment_target, training.augment_images) == (Heuristic().target, Heuristic().speed_images)


@pytest.mark.parametrize("loss", LOSSES)
def test_labels_are_smoothed_where_the_library_can(loss):
    if loss in SMOOTHED:
        assert Training(loss=loss, label_smoothing=0.1).label_smoothing == 0.1
    else:
        with pytest.raises(ValidationError, match="label_smoothing has no meaning"):
            Training(loss=loss, label_smoothing=0.1)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"augment_p": 0.5}, "augment_p has no meaning here; it is for augment ada"),
        ({"augment": "diffaugment", "augment_operations": {"hue": 1}}, "augment_operations has no meaning here"),
        ({"augment_target": 0.5}, "augment_target has no meaning here; it is for augment ada without augment_p"),
        ({"augment": "ada", "augment_p": 0.5, "augment_images": 9}, "augment_images has no meaning here"),
        ({"augment": "ada", "loss": "relativistic"}, "give augment_p"),
        ({"augment": "ada", "augment_operations": {"blur": 1}}, "blur"),
        ({"augment": "ada", "augment_p": {"from": 0, "to": 1.5, "over": 9}}, "less than or equal to 1"),
    ],
)
def test_an_augmentation_takes_what_has_a_meaning_for_it(values, said):
    with pytest.raises(UserError, match=said):
        parse_config({"name": "a", "training": values}, "recipe")


# Identity

# Another value for each key, and whether it makes another run. A key is operational only if the weights
# after so many images are the same bits whatever it says.
KEYS: dict[str, tuple[Any, bool]] = {
    "name": ("other", True),
    "data.source": ("/elsewhere", False),  # what is in it counts, through the dataset's digest
    "data.labels": ("none", False),  # the same
    "data.image_column": ("image", False),
    "data.resolution": (32, True),
    "data.channels": (3, True),
    "data.encoding": ("png", True),
    "data.background": ("black", True),
    # Which images come of these counts, through the dataset's digest.
    "data.problems": ({"corrupt": 0.5}, False),
    "data.min_side": (3, False),
    "data.max_aspect": (3.0, False),
    "data.held_out": (0.1, True),
    "data.shard_images": (500, True),
    "data.streams": (4, True),
    "data.window": (3, True),
    "data.gate.lost_classes": (1, False),  # it decides whether to train, not on what
    "data.gate.drop": (0.5, False),
    "data.gate.quarantined": (0.5, False),
    "data.gate.size_shift": (0.5, False),
    "data.quality": (90, False),  # of jpeg; it counts through the dataset's digest
    "data.mirror": (True, True),
    "data.only": (["a"], True),
    "data.balance": (True, True),
    "data.on_damage": ("skip", False),  # a run that failed can go on so
    "data.loaders": (1, False),
    "model.family": ("resnet", True),
    "model.z_dim": (32, True),
    "model.width": (16, True),
    "model.max_width": (64, True),
    "model.conditional": (False, True),
    "model.widths": ([32, 16, 8], True),
    "model.cardinality": ([4, 2, 1], True),
    "model.blocks": (1, True),
    "model.spectral_norm": ("both", True),
    "model.attention": (14, True),
    "model.bigan": (True, True),
    "model.w_dim": (64, True),
    "model.mapping_layers": (2, True),
    "model.group": (2, True),
    "training.images": (300_000, False),  # a run may be continued
    "training.batch": (32, True),
    "training.accumulate": (2, True),
    "training.loss": ("relativistic", True),
    "training.label_smoothing": (0.1, True),
    "training.r1": (0.5, True),
    "training.r2": (0.5, True),
    "training.gp": (10.0, True),
    "training.penalty_every": (8, True),
    "training.penalty_method": ("finite_difference", True),
    "training.learning_rate": (1e-4, True),
    "training.beta1": (0.5, True),
    "training.beta2": (0.9, True),
    "training.ema_half_life": (5_000, True),
    "training.augment": ("diffaugment", True),
    "training.augment_p": (0.5, True),
    "training.augment_target": (0.5, True),
    "training.augment_images": (100_000, True),
    "training.augment_operations": ({"hue": 0.5}, True),
    "training.seed": (1, True),
    # What it came to counts, "bf16" or "fp32": run_name is told. "auto" on two machines may be two runs.
    "training.precision": ("fp32", False),
    "training.compile": (True, True),
    "training.log_every": (999, False),
    "training.checkpoint_every": (999, False),
    "training.evaluate_every": (999, False),
    "training.keep_last": (5, False),
    "training.keep_best": (2, False),
    "training.evaluate_images": (256, False),
    "training.plateau": (3, False),
    "training.max_hours": (1.5, False),
    "training.nonfinite_steps": (3, False),
    "training.profile": ("10-12", False),
    "training.init": ("faces@champion", False),  # the weights that it names count
    "evaluation.extra": (["path_length"], False),
    "evaluation.features": ("inception.pt", False),
    "evaluation.features_sha256": ("0" * 64, False),
    "evaluation.features_pixels": (299, False),
    "evaluation.features_range": ("0-1", False),
    "evaluation.images": (500, False),
    "evaluation.seeds": ([3, 4], False),
    "evaluation.minimum_images": (500, False),
    "release.model": ("faces", False),
    "release.limits": ({"frechet": {"least": None, "most": 50.0}}, False),
    "release.minimum_coverage": (0.1, False),
    "release.licence": ("CC-BY-4.0", False),
    "cluster.workers": (2, False),
    "cluster.cpus_per_worker": (2, False),
    "cluster.placement": ("SPREAD", False),
    "cluster.wait_seconds": (5, False),
    "cluster.stall_seconds": (30, False),
    "cluster.environment": ({"NCCL_SOCKET_IFNAME": "eth0"}, False),
    "storage": ("/elsewhere", False),
}


@pytest.mark.parametrize("key", keys_of(Config))
def test_a_run_is_another_exactly_where_the_weights_are(key):
    assert key in KEYS, f"{key} is new: say in KEYS whether it changes the weights, and mark it OPERATIONAL if not"
    value, changes = KEYS[key]
    # Spelled out, so that a source's defaults do not change along with it.
    values = load_config("mnist").model_dump(mode="json")
    if key.startswith("training.augment_"):
        values["training"]["augment"] = "ada"  # no other takes them
    if key == "training.plateau":
        values["training"]["evaluate_images"] = 256
    if key.startswith("evaluation.features"):  # a module needs them all
        module = {"features": "other.pt", "features_sha256": "1" * 64, "features_pixels": 64}
        values["evaluation"] |= module
    config = parse_config(values, "recipe")
    *sections, last = key.split(".")
    inner = values
    for section in sections:
        inner = inner[section]
    assert inner[last] != value
    inner[last] = value
    changed = parse_config(values, "recipe")
    assert (changed.run_name(DATASET, "bf16") != config.run_name(DATASET, "bf16")) is changes
    assert changed.digest() != config.digest()


def test_every_classified_key_exists():
    assert set(KEYS) == set(keys_of(Config))


def test_dataset_and_resolved_precision_make_another_run():
    config = load_config("mnist")
    names = {config.run_name(dataset, precision) for dataset in ("0" * 64, "1" * 64) for precision in ("fp32", "bf16")}
    assert len(names) == 4


def test_another_way_is_another_run():
    ways = ["{from: 2, to: 0, over: 9}", "{from: 2, to: 0, over: 8}", "{from: 2, to: 0, over: 9, shape: ramp}", "2"]
    configs = [load_config("mnist", [f"training.r1={way}"]) for way in ways]
    assert len({config.run_name(DATASET, "fp32") for config in configs}) == len(ways)
    longer = load_config("mnist", [f"training.r1={ways[0]}", "training.images=1000000"])  # no way looks at the total
    assert longer.run_name(DATASET, "fp32") == configs[0].run_name(DATASET, "fp32")


def test_the_identity_of_a_known_recipe_is_the_one_it_had():
    # Runs are found again by this name. It may change only with the preset itself, with NUMERICS_VERSION, or with
    # its family's in FAMILY_NUMERICS. Keys that came later leave it alone while they are at their defaults.
    assert load_config("mnist").run_name(DATASET, "fp32") == "mnist-1621c3a4dc1b"
    assert load_config("small").run_name(DATASET, "fp32") == "small-abd3172dee37"
    assert load_config("ffhq256-stylegan2-ada").run_name(DATASET, "fp32") == "ffhq256-stylegan2-ada-8d3d6adf1a59"
    assert load_config("mnist").digest() == "bc448595eecd572f603c17b101d4ed7b3900f807821d563f282ea92763c34b1c"


# Digests


def test_canonical_json_is_one_text_for_one_value():
    assert canonical_json({"b": [1, 2.5, None, True], "a": "ü"}) == '{"a":"ü","b":[1,2.5,null,true]}'.encode()
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}) != digest({"a": 1, "b": "2"})
    assert digest({}) == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    assert len({digest(value) for value in (None, 0, False, "", [], {}, "0", [0])}) == 8


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [float("-inf")]])
def test_numbers_without_json_have_no_digest(value):
    with pytest.raises(ValueError, match="JSON"):
        digest(value)
