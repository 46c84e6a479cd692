"""Image i depends on (seed, i) and its label alone: for every family, whatever the batch, the row and the threads."""

import numpy as np
import pytest
import torch
from small_networks import small, well_mixed

from ganmodels.networks import FAMILIES
from ganmodels.spec import NetworkSpec
from pipeline.registry.generator import BATCH, Generator


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def generator(request) -> Generator:
    spec = small(request.param, channels=3, classes=3)
    return Generator(well_mixed(spec)[0], spec)


@pytest.fixture(params=[1, 2])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def images(generator) -> np.ndarray:
    """Images 0 to 149 of seed 5, made with one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    made = generator.sample(150, seed=5)
    torch.set_num_threads(before)
    assert made.std() > 10
    return made


def one_level(a: np.ndarray, b: np.ndarray) -> None:
    np.testing.assert_allclose(a.astype(int), b.astype(int), rtol=0, atol=1)


def test_neither_the_count_nor_the_threads_change_an_image(generator, images, threads):
    np.testing.assert_array_equal(generator.sample(5, seed=5), images[:5])
    np.testing.assert_array_equal(generator.sample(90, seed=5, first=41), images[41:131])
    np.testing.assert_array_equal(generator.sample(1, seed=5, first=77), images[77:78])


class Place(torch.nn.Module):
    """Its images tell where they were made: in red the row, in green how many rows there were."""

    def forward(self, z, labels, truncation=1.0):
        told = torch.zeros(len(z), 3, 16, 16)
        told[:, 0], told[:, 1] = torch.arange(len(z))[:, None, None], len(z)
        return told / 127.5 - 1


@pytest.mark.parametrize(("n", "first"), [(5, 0), (150, 0), (90, 41), (1, 77)])
def test_an_image_is_always_in_the_same_row_of_as_many(n, first, threads):
    """Kernels may differ by either, and real networks of this size do not show it."""
    images = Generator(Place(), NetworkSpec("dcgan", 16, 3, z_dim=4)).sample(n, first=first)
    assert images[:, 0, 0, 0].tolist() == [i % BATCH for i in range(first, first + n)]
    assert (images[:, :, :, 1] == BATCH).all()


def test_rows_of_many_seeds_are_the_images_that_each_seed_has_by_itself(generator, images, threads):
    other = generator.sample(40, seed=6, truncation=1.0)
    seeds, indexes = [5, 6, 5, np.int64(6)], [149, 39, 0, np.int64(7)]
    one_level(generator.sample_rows(seeds, indexes), np.stack([images[149], other[39], images[0], other[7]]))
    for rows in (1, 2, 7, BATCH + 3):
        one_level(generator.sample_rows([5] * rows, range(rows)), images[:rows])
    both = generator.sample_rows([5, 6], [3, 3])
    assert (both[0] != both[1]).any()


def test_rows_take_labels_and_truncation(generator, images):
    expected = generator.sample(4, seed=5, labels=[2, 0, 1, 2], truncation=0.5)
    one_level(generator.sample_rows([5] * 4, range(4), [2, 0, 1, 2], 0.5), expected)
    one_level(generator.sample_rows([5] * 4, range(4), 1), generator.sample(4, seed=5, labels=1))
    assert np.abs(expected.astype(int) - images[:4]).max() > 10
    assert generator.sample_rows([], []).shape == (0, 16, 16, 3)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (([1], [0, 1]), "1 seeds and 2 indexes"),
        (([1], [-1]), "index -1"),
        (([1], [0], 3), "label 3 "),
        (([1], [0], None, -0.5), r"truncation -0\.5"),
    ],
)
def test_a_row_that_cannot_be_is_named(generator, arguments, named):
    with pytest.raises(ValueError, match=named):
        generator.sample_rows(*arguments)
