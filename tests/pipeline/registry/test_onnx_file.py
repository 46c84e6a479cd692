"""What another runtime makes of an exported generator equals what `sample` makes."""

import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from small_networks import small, well_mixed

from ganmodels.randomness import image_latents
from pipeline.errors import UserError
from pipeline.pictures import to_pixels
from pipeline.registry.generator import Generator
from pipeline.registry.onnx_file import to_onnx

pytestmark = pytest.mark.usefixtures("one_thread")

NETWORKS = {
    "dcgan": small("dcgan"),
    "dcgan with classes": small("dcgan", 28, channels=3, classes=3),
    "resnet": small("resnet", attention=8, width=8, max_width=8),
    "resnet with classes": small("resnet", channels=3, classes=3, spectral_norm="both"),
    "r3gan": small("r3gan", channels=3, blocks=1),
    "r3gan with classes": small("r3gan", classes=3, blocks=1),
    "stylegan2": small("stylegan2", channels=3),
    "stylegan2 with classes": small("stylegan2", classes=3),
}


def _generator(spec) -> Generator:
    network = well_mixed(spec)[0].float().requires_grad_(False)
    if spec.family == "stylegan2":
        network.centre.copy_(torch.linspace(-1, 1, spec.w_dim))
    return Generator(network, spec, tuple(map(str, range(spec.classes))))


@pytest.mark.parametrize("spec", NETWORKS.values(), ids=NETWORKS)
def test_images_equal_those_of_sample_to_one_grey_level(spec):
    generator = _generator(spec)
    session = onnxruntime.InferenceSession(
        to_onnx(generator, {"ganline.model": "zoo"}), providers=["CPUExecutionProvider"]
    )
    assert session.get_modelmeta().custom_metadata_map["ganline.model"] == "zoo"
    names = {one.name: one.shape for one in session.get_inputs()}
    assert list(names) == ["latents", *(["labels"] if spec.classes else []), "truncation"]
    for count, truncation in ((5, 1.0), (1, 0.5)):
        given = {
            "latents": image_latents(0, count, spec.z_dim, 3).numpy(), "labels": np.arange(count) % (spec.classes or 1),
            "truncation": np.array(truncation, np.float32),
        }  # fmt: skip
        (images,) = session.run(["images"], {name: given[name] for name in names})
        with torch.inference_mode():
            labels = torch.from_numpy(given["labels"]) if spec.classes else None
            floats = generator.network(torch.from_numpy(given["latents"]), labels, truncation).numpy()
        np.testing.assert_allclose(images, floats, atol=2e-5 * max(1, np.abs(floats).max()))
        expected = generator.sample(count, 3, truncation=truncation)
        assert expected.std() > 2
        difference = to_pixels(torch.from_numpy(images)).astype(int) - expected
        assert np.abs(difference).max() <= 1


def test_the_file_is_sound_and_needs_no_code_of_ours():
    model = onnx.load_from_string(to_onnx(_generator(small("dcgan"))))
    onnx.checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} == {""} and not model.functions


def test_without_the_exporter_the_remedy_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UserError, match=r"^to export ONNX takes two packages more: pip install onnx onnxscript$"):
        to_onnx(_generator(small("dcgan")))


def test_an_operation_that_onnx_does_not_have_is_told_in_one_line():
    generator = _generator(small("dcgan"))
    forward = generator.network.forward
    generator.network.forward = lambda z, labels, truncation: torch.igamma(forward(z, labels, truncation), z.sum())
    with pytest.raises(
        UserError, match=r"^dcgan networks like this one can not be exported to ONNX: .*igamma"
    ) as error:
        to_onnx(generator)
    assert "\n" not in str(error.value)
