"""Progress as lines."""

from flows.progress_lines import Lines
from pipeline.progress import Progress


def test_a_stage_is_told_as_it_begins_and_ends_and_as_it_begins_again():
    said: list[str] = []
    lines = Lines(said.append, seconds=3600)
    for _ in range(2):  # a generator, and then the champion
        for done in (10, 50, 100):
            lines.report(Progress("evaluate", done, 100))
    lines.note("a note")
    assert [line.split(",")[0] for line in said] == [
        "evaluate: 10 of 100 images",
        "evaluate: 100 of 100 images",
    ] * 2 + ["a note"]
