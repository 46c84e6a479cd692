"""Filtered and balanced views, from the rows that they give; and what is shown of them by a reader."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import Data
from pipeline.errors import UserError
from pipeline.shards.batches import StreamBatches, mirrored
from pipeline.shards.manifest import load_manifest
from pipeline.shards.on_ray import shard_images
from pipeline.shards.opened import open_view
from pipeline.shards.order import Order, streams_of
from pipeline.shards.read import DatasetReader
from pipeline.shards.view import BalancedOrder, View

CLASSES = {"bird": range(0, 40), "cat": range(40, 52), "ant": range(52, 76), "dog": range(76, 100)}
NUMBERED = sorted(CLASSES)

CHECKS = settings(max_examples=40, deadline=None)


@st.composite
def balanced(draw) -> dict:
    """Arguments of a BalancedOrder: up to five classes, scattered over up to eight shards."""
    streams, rows, classes = draw(st.integers(1, 6)), draw(st.integers(1, 5)), draw(st.integers(1, 5))
    table = draw(st.lists(st.lists(st.integers(0, 12), min_size=classes, max_size=classes), min_size=1, max_size=8))
    table.append([streams] * classes)
    return {
        "table": np.array(table), "names": [str(number) for number in range(classes)],
        "batch": streams * rows, "streams": streams,
        "window": draw(st.integers(1, 3)), "seed": draw(st.integers(0, 2**40)),
    }  # fmt: skip


def rows_of(order, steps: range, stream: int) -> list[tuple[int, int]]:
    return [place for step in steps for place in zip(*(c.tolist() for c in order.rows(step, stream)), strict=True)]


def class_of(table: np.ndarray, place: tuple[int, int]) -> int:
    return int(np.searchsorted(np.cumsum(table[place[0]]), place[1], side="right"))


@CHECKS
@given(balanced(), st.integers(0, 500))
def test_a_balanced_stream_shows_each_class_once_in_every_turn(given_, start):
    order, table = BalancedOrder(**given_), given_["table"]
    classes, rows = table.shape[1], given_["batch"] // given_["streams"]
    steps = range(start * classes, start * classes + 2 * classes)  # these begin and end with a turn
    for stream in range(given_["streams"]):
        shown = [class_of(table, place) for place in rows_of(order, steps, stream)]
        for turn in range(2 * rows):
            assert sorted(shown[turn * classes : (turn + 1) * classes]) == list(range(classes))


@CHECKS
@given(balanced())
def test_an_image_of_a_balanced_class_comes_once_in_each_of_the_classs_epochs(given_):
    order, table = BalancedOrder(**given_), given_["table"]
    classes, streams, rows = table.shape[1], given_["streams"], given_["batch"] // given_["streams"]
    for number in range(classes):
        epoch = int(table[:, number].sum()) // streams  # images of a stream, each in another turn
        steps = range(-(-epoch * classes // rows))
        seen: list = []
        for stream in range(streams):
            shown = rows_of(order, steps, stream)
            seen += [place for place in shown[: epoch * classes] if class_of(table, place) == number]
        assert len(seen) == len(set(seen)) == epoch * streams


@CHECKS
@given(balanced(), st.integers(0, 300), st.integers(1, 4))
def test_a_balanced_order_remembers_nothing(given_, start, more):
    came, resumed = BalancedOrder(**given_), BalancedOrder(**given_)
    history = {step: [rows_of(came, range(step, step + 1), s) for s in range(given_["streams"])] for step in
               range(max(0, start - 3), start + more)}  # fmt: skip
    for step in reversed(range(start, start + more)):
        assert [rows_of(resumed, range(step, step + 1), s) for s in range(given_["streams"])] == history[step]


def test_balanced_seeds_and_epochs_differ():
    table = np.full((4, 2), 10)
    keys = {"table": table, "names": ["a", "b"], "batch": 8, "streams": 2, "window": 2}
    one, other = BalancedOrder(**keys, seed=0), BalancedOrder(**keys, seed=1)
    assert rows_of(one, range(10), 0) != rows_of(other, range(10), 0)
    assert rows_of(one, range(10), 0) != rows_of(one, range(10, 20), 0)


def test_a_class_that_does_not_fill_the_streams_is_named():
    with pytest.raises(ValueError, match="class b has 3 images, fewer than the 4 streams"):
        BalancedOrder(np.array([[9, 3]]), ["a", "b"], batch=8, streams=4, window=2, seed=0)


@CHECKS
@given(st.lists(st.integers(-1, 4), max_size=40), st.sets(st.integers(0, 4), min_size=1), st.booleans())
def test_a_view_of_a_shard_holds_its_classes_and_nothing_else(labels, classes, by_class):
    label, chosen = np.array(labels, dtype=np.int64), sorted(classes)
    view = View(chosen, by_class, np.zeros((0, len(chosen))))
    rows = view.rows(label)
    assert sorted(rows.tolist()) == [row for row, one in enumerate(labels) if one in classes]
    wanted = sorted(rows.tolist(), key=lambda row: (labels[row], row)) if by_class else sorted(rows.tolist())
    assert rows.tolist() == wanted
    assert [chosen[number] for number in view.numbers_of(label[rows])] == label[rows].tolist()


# With a dataset


@pytest.fixture
def dataset(storage, data, make_tree, tmp_path, without_ray):
    folder = make_tree(tmp_path / "images", CLASSES)
    return shard_images(storage, "pets", data(folder, held_out=0)).dataset


def batches(storage, dataset, steps, *, world: int = 1, seed: int = 3, batch: int = 24, **keys):
    """Global batches, images and labels, put together from what each rank reads."""
    data = Data.model_validate({"source": "x", "resolution": 16, "channels": 3, "streams": 4, **keys})
    parts = []
    for rank in range(world):
        manifest = load_manifest(storage, dataset)
        view = open_view(storage, dataset, manifest, data)
        reader = DatasetReader(storage, dataset, "train", view=view)
        how = {"batch": batch, "streams": 4, "window": 2, "seed": seed}
        names = [name for name in manifest.classes if not data.only or name in data.only]
        order = BalancedOrder(view.table, names, **how) if data.balance else Order(reader.counts, **how)
        rank_batches = StreamBatches(reader, order, streams_of(rank, world, 4), seed if data.mirror else None)
        parts.append([rank_batches[step] for step in steps])
    return [tuple(torch.cat(column) for column in zip(*each, strict=True)) for each in zip(*parts, strict=True)]


def number_of(image: torch.Tensor, pixels) -> int:
    return next(n for n in range(100) if np.array_equal(pixels(n), image.permute(1, 2, 0).numpy()))


VIEWS = [{}, {"only": ["dog", "ant"]}, {"balance": True}, {"balance": True, "only": ["cat", "bird"]}]


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("view", VIEWS, ids=str)
def test_views_and_flips_are_the_same_at_every_world_size(storage, dataset, view, mirror):
    steps = (0, 1, 7, 100)
    alone = batches(storage, dataset, steps, mirror=mirror, **view)
    for world in (2, 3, 4):
        for (images, labels), (theirs, their_labels) in zip(
            alone, batches(storage, dataset, steps, world=world, mirror=mirror, **view), strict=True
        ):
            assert torch.equal(images, theirs) and torch.equal(labels, their_labels)


@pytest.mark.parametrize("view", VIEWS[1:], ids=str)
def test_a_view_shows_its_classes_under_their_new_numbers(storage, dataset, pixels, view):
    names = [name for name in NUMBERED if name in view.get("only", NUMBERED)]
    shown: Counter = Counter()
    for images, labels in batches(storage, dataset, range(4), **view):
        for image, label in zip(images, labels.tolist(), strict=True):
            number = number_of(image, pixels)
            assert number in CLASSES[names[label]]
            shown[names[label]] += 1
    assert set(shown) == set(names)
    if "balance" in view:
        assert max(shown.values()) == min(shown.values())


def test_an_epoch_of_a_filtered_view_shows_each_of_its_images_once(storage, dataset, pixels):
    shown = [
        number_of(image, pixels)
        for images, _ in batches(storage, dataset, range(4), batch=12, only=["ant", "dog"])  # 48 images
        for image in images
    ]
    assert sorted(shown) == sorted([*CLASSES["ant"], *CLASSES["dog"]])


def test_a_mirrored_batch_is_the_batch_with_half_of_its_rows_flipped(storage, dataset):
    flips = 0
    for step, ((plain, labels), (images, theirs)) in enumerate(
        zip(batches(storage, dataset, range(40)), batches(storage, dataset, range(40), mirror=True), strict=True)
    ):
        assert torch.equal(labels, theirs)
        assert images.is_contiguous(memory_format=torch.channels_last)
        flipped = np.concatenate([mirrored(3, step, stream, 6) for stream in range(4)])
        for one, other, is_flipped in zip(plain, images, flipped, strict=True):
            assert torch.equal(one.flip(2) if is_flipped else one, other)
        flips += int(flipped.sum())
    assert abs(flips - 480) < 4 * 15.5  # of 960: four standard deviations


def test_flips_differ_by_seed_step_and_stream():
    draws = [mirrored(seed, step, stream, 64) for seed in (0, 1) for step in (0, 1) for stream in (0, 1)]
    assert len({draw.tobytes() for draw in draws}) == 8
    assert np.array_equal(mirrored(1, 1, 1, 64), draws[-1])


def test_a_class_that_is_none_is_told_with_those_that_are(storage, dataset):
    with pytest.raises(UserError, match=r"data\.only names 'cow', which is no class .* it has ant, bird, cat, dog"):
        batches(storage, dataset, range(1), only=["ant", "cow"])


def test_removed_images_are_in_no_view(storage, data, make_tree, tmp_path, without_ray, pixels):
    folder = make_tree(tmp_path / "images", CLASSES)
    shard_images(storage, "pets", data(folder, held_out=0))
    for number in range(52, 60):
        (tmp_path / f"images/ant/{number:04}.png").unlink()
    shrunken = shard_images(storage, "pets", data(folder, held_out=0)).dataset
    shown = {
        number_of(image, pixels)
        for images, _ in batches(storage, shrunken, range(40), batch=8, only=["ant"])
        for image in images
    }
    assert shown == set(range(60, 76))
