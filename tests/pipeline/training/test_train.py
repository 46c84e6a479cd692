"""A run in one process, with the driver's watch over it."""

import json
import threading
import time

import pytest
from hurry import within

from pipeline.errors import Stopped
from pipeline.training import recording, watch, worker
from pipeline.training.checkpoint import list_checkpoints, newest_checkpoint, read_files
from pipeline.training.plan import plan_run
from pipeline.training.run import ask_to_stop, only_writer, stop_reason
from pipeline.training.telemetry import read_points


def test_a_run_without_ray_gives_the_bits_of_one_worker(trainer, run_name, heard):
    config = trainer.config(workers=0, seed=11)
    trained = trainer.alone(config)
    files = read_files(trainer.storage, trained.checkpoint)
    assert files == trainer(run_name(), 1, seed=11).files
    assert trainer.alone(config).checkpoint == trained.checkpoint


def test_max_hours_stops_at_a_checkpoint_and_the_same_again_goes_on(trainer, heard):
    config = trainer.config(workers=0, images=16 * 20_000, seed=12, max_hours=2 / 3600)
    run = plan_run(trainer.storage, config, trainer.dataset).run
    with pytest.raises(Stopped, match=r"stopped at image .*max_hours 0\.000555556 are over"):
        trainer.alone(config)
    first = newest_checkpoint(trainer.storage, run)
    with pytest.raises(Stopped):
        trainer.alone(config)
    assert newest_checkpoint(trainer.storage, run).step > first.step > 0
    assert any("continues from image" in line for line in heard.notes)


def test_chosen_steps_are_traced_and_the_bits_stay(trainer, run_name):
    run = run_name()
    profiled, plain = trainer(run, 2, images=160, profile="3-5"), trainer(run_name(), 2, images=160)
    assert profiled.files == plain.files
    for rank in (0, 1):
        trace = json.loads(trainer.storage.read(f"runs/{run}/profiles/3-5-rank{rank}.json"))
        assert any("convolution" in str(event.get("name")) for event in trace["traceEvents"])


MEASURED = {"evaluate_every": 64, "evaluate_images": 8, "keep_best": 1, "keep_last": 1, "checkpoint_every": 96}


def test_what_is_measured_as_it_goes_changes_no_bit_and_the_best_is_kept(trainer, run_name):
    run = run_name()
    measured, plain = trainer(run, 2, **MEASURED), trainer(run_name(), 1 + 1, log_every=32)
    assert {k: v for k, v in measured.files.items() if k != "state.json"} == {
        k: v for k, v in plain.files.items() if k != "state.json"
    }
    distances = {
        p["images"]: p["metrics"]["frechet"] for p in read_points(trainer.storage, run) if "frechet" in p["metrics"]
    }
    assert list(distances) == [64, 128, 192, 256, 320, 384]
    kept = {listed.images: listed.metrics.get("frechet") for listed in list_checkpoints(trainer.storage, run)}
    assert kept == {images: distances[images] for images in {384, min(distances, key=distances.__getitem__)}}
    names = trainer.storage.read_json(f"runs/{run}/figures.json")
    assert "8 generated" in names["frechet"]


def test_a_run_that_was_measured_resumes_bitwise(trainer, run_name):
    alone, run = trainer(run_name(), 2, **MEASURED), run_name()
    for stop_at in (5, 9, None):
        part = trainer(run, 2, stop_at=stop_at, **MEASURED)
    assert part.files == alone.files and part.figures == alone.figures


def test_a_run_that_gets_no_better_is_done_and_the_best_is_what_comes_of_it(trainer):
    # At this rate nothing is learnt.
    still = {"learning_rate": 1e-12, "ema_half_life": 0, "images": 16 * 240}
    config = trainer.config(workers=0, seed=13, plateau=2, **still, **MEASURED)
    trained = trainer.alone(config)
    points = {p["images"]: p["metrics"] for p in read_points(trainer.storage, trained.checkpoint.run)}
    distances = {images: metrics["frechet"] for images, metrics in points.items() if "frechet" in metrics}
    best = trainer.storage.read_json(f"{trained.checkpoint.path}/state.json")["best"]
    assert trained.checkpoint.images < 16 * 240 and trained.checkpoint.images - best["at"] == 2 * 64
    assert best["since"] == 2 and distances[trained.best.images] == min(distances.values()) == best["distance"]
    assert trainer.alone(config).checkpoint == trained.checkpoint


def test_a_generator_whose_images_hardly_differ_is_warned_of_once(trainer, heard, monkeypatch):
    monkeypatch.setattr(recording, "diversity", lambda generated, real: 0.01)
    config = trainer.config(workers=0, seed=14, batch=64, images=64 * 200, evaluate_every=64 * 50, log_every=64 * 50)
    trained = trainer.alone(config)
    points = read_points(trainer.storage, trained.checkpoint.run)
    assert [point["metrics"]["diversity"] for point in points] == [0.01] * 4
    assert [[one["code"] for one in point.get("warnings", ())] for point in points] == [[], [], [], ["collapsed"]]
    assert "differ" in trained.warnings["collapsed"] and any("diversity" in line for line in heard.notes)


def test_a_store_that_does_not_say_whether_to_stop_holds_up_no_step(trainer, monkeypatch):
    gate, asked = threading.Event(), threading.Event()
    monkeypatch.setattr(worker, "is_stop_asked", lambda storage, run: asked.set() or gate.wait(600))
    begun = time.monotonic()
    trained = trainer.alone(trainer.config(workers=0, seed=15, images=16 * 400))
    assert trained.checkpoint.images == 16 * 400 and asked.is_set() and time.monotonic() - begun < within(30)
    gate.set()


def test_a_wish_to_stop_is_written_once_the_store_takes_it(trainer, monkeypatch):
    refused = iter([OSError("away"), OSError("away")])

    def ask(storage, run, reason):
        if error := next(refused, None):
            raise error
        ask_to_stop(storage, run, reason)

    monkeypatch.setattr(watch, "ask_to_stop", ask)
    with only_writer(trainer.storage, "t-asked") as held:
        eyes = watch.Watch(trainer.storage, trainer.config(), "t-asked", held)
        eyes.stop("SIGTERM")  # as a signal's handler does, which may not wait
        for expected in (None, None, "SIGTERM", "SIGTERM"):
            eyes.look()
            assert stop_reason(trainer.storage, "t-asked") == expected
