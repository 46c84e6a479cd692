import json
from dataclasses import replace

import pytest
from small_networks import small

from ganmodels.networks import FAMILIES, build_generator
from ganmodels.spec import NetworkSpec, pyramid

SPEC = NetworkSpec("dcgan", 16, 3, classes=5, z_dim=7, width=4, max_width=6)
OPTIONS = {
    "widths": (8, 4, 2), "cardinality": (2, 1, 1), "blocks": 3, "w_dim": 9, "mapping_layers": 2, "group": 2,
    "spectral_norm": "both", "attention": 8, "bigan": True,
}  # fmt: skip


def test_a_spec_survives_json():
    for spec in (SPEC, replace(SPEC, **OPTIONS)):
        assert NetworkSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def test_options_at_their_default_are_not_written():
    """So that the digest over a spec is what it was before there were options."""
    assert json.dumps(SPEC.to_dict(), sort_keys=True) == (
        '{"channels": 3, "classes": 5, "family": "dcgan", "max_width": 6, "resolution": 16, "width": 4, "z_dim": 7}'
    )
    for name, value in OPTIONS.items():
        written = replace(SPEC, **{name: value}).to_dict()
        assert written.keys() - SPEC.to_dict().keys() == {name}


@pytest.mark.parametrize("change", [{"colour": 1}, {"family": None}])
def test_a_spec_with_unknown_or_missing_fields_is_refused(change):
    values = {name: value for name, value in (SPEC.to_dict() | change).items() if value is not None}
    with pytest.raises(ValueError, match=r"not a network spec: .*(colour|family)"):
        NetworkSpec.from_dict(values)


CHANGES = [
    {"channels": 3}, {"classes": 2}, {"z_dim": 5}, {"width": 1}, {"max_width": 3}, {"max_width": 5},
    {"widths": (8, 4, 2)}, {"widths": (4, 4, 2), "max_width": 9}, {"cardinality": (2, 2, 1)}, {"blocks": 3},
    {"w_dim": 9}, {"mapping_layers": 3}, {"group": 4}, {"spectral_norm": "discriminator"}, {"spectral_norm": "both"},
    {"attention": 8}, {"bigan": True},
]  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_specs_of_one_generator_are_those_whose_weights_fit(family):
    spec, fitting = small(family), []

    def shapes(spec: NetworkSpec) -> dict[str, tuple[int, ...]]:
        return {name: tuple(tensor.shape) for name, tensor in build_generator(spec).state_dict().items()}

    for change in CHANGES:
        changed = replace(spec, **change)
        options = FAMILIES[family].OPTIONS | {"channels", "classes", "z_dim", "width", "max_width"}
        if change.keys() <= options:
            fits = shapes(changed) == shapes(spec)
            assert (changed.of_generator() == spec.of_generator()) == fits, change
            fitting += [*change] if fits else []
    assert set(fitting) == {"max_width", "widths"} | FAMILIES[family].OPTIONS & {"group", "spectral_norm", "bigan"}


IMPOSSIBLE = {
    "classes": -1, "z_dim": 0, "width": 2.0, "max_width": True, "blocks": "2", "w_dim": 0, "mapping_layers": 0,
    "group": 0, "attention": None, "widths": [4, 0, 4], "cardinality": 3, "spectral_norm": True, "bigan": 1,
}  # fmt: skip


@pytest.mark.parametrize(("name", "value"), IMPOSSIBLE.items(), ids=IMPOSSIBLE)
def test_impossible_values_are_refused_in_one_line(name, value):
    with pytest.raises(ValueError, match=f"^{name} .* (is|are) not ") as refused:
        NetworkSpec.from_dict(SPEC.to_dict() | {name: value})
    assert "\n" not in str(refused.value)


def test_the_pyramid_doubles_resolutions_and_halves_widths():
    assert pyramid(replace(SPEC, resolution=28, max_width=512)) == [(7, 16), (14, 8), (28, 4)]
    assert pyramid(replace(SPEC, resolution=64)) == [(4, 6), (8, 6), (16, 6), (32, 6), (64, 4)]
    assert pyramid(replace(SPEC, widths=(3, 5, 2))) == [(4, 3), (8, 5), (16, 2)]


@pytest.mark.parametrize("resolution", [16.0, "16", None, True])
def test_a_resolution_that_is_no_whole_number_is_refused(resolution):
    with pytest.raises(ValueError, match="is not 28 or a power of two"):
        pyramid(replace(SPEC, resolution=resolution))
