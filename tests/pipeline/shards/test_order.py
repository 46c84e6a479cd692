"""The order is checked against what it promises, from the rows that it gives; never against its own windows."""

import pickle
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.shards.order import Order, streams_of
from pipeline.shards.write import content_key

GOLDEN = [
    [[0, 3], [0, 0], [0, 6], [0, 4], [2, 0], [2, 1], [2, 9], [2, 10]],
    [[4, 8], [0, 1], [3, 2], [3, 1], [2, 3], [2, 6], [4, 0], [4, 1]],
    [[4, 8], [4, 6], [2, 8], [2, 9], [0, 2], [0, 6], [4, 0], [3, 1]],
]

CHECKS = settings(max_examples=60, deadline=None)


@st.composite
def inputs(draw, smallest_shard: int = 0, least: int = 0, most_streams: int = 8) -> dict:
    """Arguments of an Order over at most some hundreds of samples, empty shards and a remainder among them."""
    streams = draw(st.integers(1, most_streams))
    rows = draw(st.integers(1, 5))
    low = max(smallest_shard, 0)
    counts = draw(st.lists(st.integers(low, low + 40), min_size=1, max_size=10))
    missing = max(streams * rows, least) - sum(counts)
    if missing > 0:
        counts.append(max(missing, low))
    return {
        "counts": counts,
        "batch": streams * rows,
        "streams": streams,
        "window": draw(st.integers(1, 4)),
        "seed": draw(st.integers(0, 2**40)),
    }


def batch_of(order: Order, step: int, streams: range) -> np.ndarray:
    """`(rows, 2)`: shard and row of each image, in the batch's order."""
    return np.concatenate([np.stack(order.rows(step, stream), axis=1) for stream in streams])


def epoch_of(order: Order, epoch: int) -> np.ndarray:
    steps = range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch)
    return np.concatenate([batch_of(order, step, range(order.streams)) for step in steps])


def numbered(places: np.ndarray, counts: list[int]) -> list[int]:
    """Each image as one number, whatever order its shards are in."""
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    return (starts[places[:, 0]] + places[:, 1]).tolist()


@CHECKS
@given(inputs(), st.integers(0, 3))
def test_an_epoch_shows_no_image_twice_and_leaves_out_the_remainder_alone(given_, epoch):
    order = Order(**given_)
    places = epoch_of(order, epoch)
    counts = np.asarray(given_["counts"])
    assert (places[:, 1] >= 0).all() and (places[:, 1] < counts[places[:, 0]]).all()
    seen = numbered(places, given_["counts"])
    assert len(set(seen)) == len(seen)
    assert counts.sum() - len(seen) == counts.sum() % given_["batch"]


def test_every_image_has_its_turn_to_be_left_out():
    counts, epochs = [40, 1, 33, 29], 300  # 103 images in batches of 16 leave out 7
    order = Order(counts, batch=16, streams=4, window=2, seed=5)
    left_out = np.zeros(103, dtype=int)
    for epoch in range(epochs):
        left_out[list(set(range(103)) - set(numbered(epoch_of(order, epoch), counts)))] += 1
    assert left_out.sum() == 7 * epochs
    # Twenty times each on average: nobody is spared, nobody is always the one.
    assert left_out.min() >= 5 and left_out.max() <= 45


@CHECKS
@given(inputs(), st.integers(0, 10_000))
def test_the_global_batch_is_the_same_at_every_world_size(given_, step):
    streams = given_["streams"]
    alone = batch_of(Order(**given_), step, range(streams))
    for world in range(1, streams + 1):
        # Each rank has an Order of its own, as it has in a process of its own.
        ranks = [batch_of(Order(**given_), step, streams_of(rank, world, streams)) for rank in range(world)]
        assert np.array_equal(np.concatenate(ranks), alone)


@given(st.integers(1, 64), st.integers(1, 64))
def test_streams_are_shared_out_once_each_and_evenly(world, streams):
    world = min(world, streams)
    shares = [streams_of(rank, world, streams) for rank in range(world)]
    assert [stream for share in shares for stream in share] == list(range(streams))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@CHECKS
@given(inputs(), st.integers(0, 40), st.integers(1, 10))
def test_resuming_at_a_step_is_the_same_as_having_come_there(given_, start, more):
    came, everything = Order(**given_), range(given_["streams"])
    history = [batch_of(came, step, everything) for step in range(start + more)]
    resumed = Order(**given_)
    for step in range(start, start + more):
        assert np.array_equal(batch_of(resumed, step, everything), history[step])


def test_what_a_caller_does_to_its_rows_does_not_reach_the_order():
    order = Order([50, 50], batch=8, streams=2, window=2, seed=0)
    before = batch_of(order, 3, range(2))
    for column in order.rows(3, 1):
        column[:] = 0
    assert np.array_equal(batch_of(order, 3, range(2)), before)


@CHECKS
@given(inputs(least=60), st.integers(0, 100))
def test_epochs_differ_and_seeds_differ(given_, epoch):
    order = Order(**given_)
    other_seed = Order(**{**given_, "seed": given_["seed"] + 1})
    assert not np.array_equal(epoch_of(order, epoch), epoch_of(order, epoch + 1))
    assert not np.array_equal(epoch_of(order, epoch), epoch_of(other_seed, epoch))


@CHECKS
@given(inputs(smallest_shard=5), st.integers(0, 2))
def test_a_stream_touches_few_shards_a_step(given_, epoch):
    # No shard is smaller than a stream's rows of a step, so these lie in two neighbouring windows at most.
    order = Order(**given_)
    for step in range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch):
        for stream in range(given_["streams"]):
            assert len(set(order.rows(step, stream)[0].tolist())) <= 2 * given_["window"]


def test_a_reader_opens_a_shard_once_an_epoch():
    # 40 shards, 4 streams: a stream that jumped about would come back to a shard again and again.
    order = Order([25] * 40, batch=20, streams=4, window=2, seed=1)
    for stream in range(4):
        steps_of: dict[int, list[int]] = {}
        for step in range(order.steps_per_epoch):
            for shard in set(order.rows(step, stream)[0].tolist()):
                steps_of.setdefault(shard, []).append(step)
        # Two shards of 25 at 5 rows a step: ten steps, and one more where the window begins within a step.
        assert all(steps[-1] - steps[0] <= 11 for steps in steps_of.values())


@pytest.mark.parametrize("shares", [[1] * 10, [50, 30, 10, 5, 5]])
def test_batches_mix_classes_as_well_as_independent_draws_do(shares):
    # A source listed class by class; shards hold it in the order of the content's hash.
    labels = np.repeat(np.arange(len(shares)), np.asarray(shares) * 6000 // sum(shares))
    by_key = labels[np.argsort([content_key(str(number).encode()) for number in range(len(labels))])]
    batch, shard, draws = 64, 500, np.random.default_rng(0)
    frequencies = np.bincount(by_key) / len(by_key)

    def distance(batches: np.ndarray) -> float:
        shown = np.stack([np.bincount(one, minlength=len(shares)) / batch for one in batches])
        return float(np.abs(shown - frequencies).sum(axis=1).mean() / 2)

    counts = [shard] * (len(by_key) // shard)
    order = Order(counts, batch=batch, streams=8, window=2, seed=0)
    steps = 4 * order.steps_per_epoch
    ours = np.stack([by_key[numbered(batch_of(order, step, range(8)), counts)] for step in range(steps)])
    independent = draws.choice(len(shares), (20 * steps, batch), p=frequencies)
    assert distance(ours) <= 1.2 * distance(independent)


def test_the_order_is_the_one_that_earlier_runs_had():
    # A checkpoint resumes in the middle of this order. Whoever changes it on purpose raises NUMERICS_VERSION.
    order = Order([7, 0, 11, 5, 9], batch=8, streams=4, window=2, seed=42)
    assert [batch_of(order, step, range(4)).tolist() for step in (0, 3, 1000)] == GOLDEN


def test_what_makes_no_order_is_refused():
    with pytest.raises(ValueError, match="batch 10 is not a multiple of 4 streams"):
        Order([100], batch=10, streams=4, window=2, seed=0)
    with pytest.raises(ValueError, match="15 images do not fill one batch of 16"):
        Order([7, 8], batch=16, streams=4, window=2, seed=0)
    with pytest.raises(ValueError, match="0 images"):
        Order([], batch=16, streams=4, window=2, seed=0)
    for world in (0, -1, 9):
        with pytest.raises(ValueError, match="can not share 8 streams"):
            streams_of(0, world, 8)


@CHECKS
@given(inputs(), st.integers(0, 60))
def test_what_is_fetched_ahead_is_what_comes(given_, look):
    order = Order(**given_)
    step = look * order.steps_per_look
    for stream in range(given_["streams"]):
        coming = order.ahead(step, stream)
        assert len(set(coming)) == len(coming)
        for later in range(step, step + order.steps_per_look):
            assert set(order.rows(later, stream)[0].tolist()) <= set(coming)


def test_a_hundred_million_images_take_little_memory_and_any_step_of_them_few_places():
    tracemalloc.start()
    order = Order([10_000] * 10_000, batch=64, streams=8, window=2, seed=0)
    for step in np.random.default_rng(0).integers(0, 10**8, 20).tolist():
        shards, rows = order.rows(step, step % 8)
        assert len(rows) == 8 and len(set(shards.tolist())) <= 4 and rows.max() < 10_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20e6  # tests/benchmarks/reading.py measures the time


def test_an_order_survives_pickling_without_what_it_keeps():
    order = Order([40, 30, 50], batch=8, streams=4, window=2, seed=9)
    before = batch_of(order, 17, range(4))
    assert len(pickle.dumps(order)) < 1000
    assert np.array_equal(batch_of(pickle.loads(pickle.dumps(order)), 17, range(4)), before)
