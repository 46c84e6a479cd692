"""Shards fetched before they are read."""

import time
from threading import Event
from threading import enumerate as threads

from pipeline.shards.ahead import Ahead


def test_once_closed_nothing_is_under_way_and_nothing_more_is_fetched():
    begun, fetched = Event(), []

    def fetch(number: int) -> None:
        begun.set()
        Event().wait(0.2)
        fetched.append(number)

    ahead = Ahead(fetch)
    ahead.want([3, 1, 2])
    assert begun.wait(10)
    ahead.close()
    assert fetched == [3]
    assert "ganline-ahead" not in {thread.name for thread in threads()}


def test_what_fails_is_left_to_who_needs_it():
    fetched = []

    def fetch(number: int) -> None:
        if number == 1:
            raise OSError("away")
        fetched.append(number)

    ahead = Ahead(fetch)
    ahead.want([1, 2])
    deadline = time.monotonic() + 10
    while not fetched and time.monotonic() < deadline:
        time.sleep(0.01)
    assert fetched == [2]
