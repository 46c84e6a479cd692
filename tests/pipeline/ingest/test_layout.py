"""Which class an item is of, against the rule spelled out over the whole list."""

import json
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.ingest.item import Item
from pipeline.ingest.layout import arrange
from pipeline.ingest.options import Options
from pipeline.ingest.source import open_source


def labels_by_the_rule(paths: list[str]) -> list[str | None]:
    """Strip the folders that wrap everything; then, if all lie in folders and in more than one, these are classes."""
    parts = [path.split("/") for path in paths]
    while all(len(each) > 2 for each in parts) and len({each[0] for each in parts}) == 1:
        parts = [each[1:] for each in parts]
    if all(len(each) > 1 for each in parts) and len({each[0] for each in parts}) > 1:
        return [each[0] for each in parts]
    return [None] * len(paths)


names = st.lists(st.sampled_from("ab"), min_size=1, max_size=4).map("/".join)


@settings(max_examples=500, deadline=None)
@given(st.lists(names, min_size=1, max_size=6), st.lists(st.sampled_from("wv"), max_size=2))
def test_labels_are_those_of_the_rule(paths, wrapped):
    paths = ["/".join([*wrapped, path]) for path in paths]
    items = [Item(path, None, index, f"s{index}") for index, path in enumerate(paths)]
    found = list(arrange(iter(items), "here", Options(), inside=str))
    assert [item.label for item in found] == labels_by_the_rule(paths)
    assert [(item.path, item.size, item.stamp) for item in found] == [(i.path, i.size, i.stamp) for i in items]


def test_the_sources_own_labels_go_before_its_folders():
    items = [Item("a/1", "x", 1), Item("b/1", None, 1)]
    assert [item.label for item in arrange(items, "here", Options(), inside=str)] == ["x", None]


@pytest.mark.parametrize("labels", ["auto", "none"])
def test_a_long_listing_is_not_held_in_memory(labels, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.ingest.layout._IN_MEMORY", 10_000)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    count = 60_000
    items = (Item(f"folder-{n % 7}/image-number-{n:09}.png", None, n, f"{n}-{n**3}") for n in range(count))
    list(arrange([Item("a", None, 1)] * 20_000, "here", Options(labels), inside=str))  # pyarrow loads what it needs
    tracemalloc.start()
    try:
        seen = sum(1 for _ in arrange(items, "here", Options(labels), inside=str))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert seen == count
    assert peak < 9 << 20  # the list of these takes twice as much
    assert list(tmp_path.iterdir()) == []


def test_a_full_temporary_folder_is_told(monkeypatch):
    monkeypatch.setattr("pipeline.ingest.layout._IN_MEMORY", 1)

    def full():
        return open("/dev/full", "r+b", buffering=0)

    monkeypatch.setattr("tempfile.TemporaryFile", lambda **_: full())
    items = (Item(f"{n}/{n * n}", None, 1, str(n)) for n in range(30_000))
    with pytest.raises(UserError, match=r"no room to list here: .*; point TMPDIR to a folder with room"):
        list(arrange(items, "here", Options(), inside=str))


def test_labels_from_a_json_file(root):
    for name in ("00000/1.png", "00000/2.png", "00001/3.png"):
        (root / f"tree/{name}").write_bytes(b"x")
    cases = {
        "map.json": {"00000/1.png": "cat", "00001/3.png": 7, "gone.png": "dog"},
        "dataset.json": {"labels": [["00000/1.png", "cat"], ["00001/3.png", 7], ["gone.png", 1]]},
    }
    for name, content in cases.items():
        (root / name).write_text(json.dumps(content))
        items = open_source(root.at("tree"), root.at(name)).items()
        assert {item.path: item.label for item in items} == {
            "00000/1.png": "cat", "00000/2.png": None, "00001/3.png": "7",
        }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is no JSON file of labels"),
        ("[1, 2]", "does not hold a label for each path"),
        ('{"a": {"b": 1}}', "does not hold a label for each path"),
        ('{"labels": [["a", [1.0, 2.0]]]}', "does not hold a label for each path"),
        ('{"b/1": "x"}', "labels nothing of .*; write paths as the source does, like a/1"),
        (None, "no file .*; give auto, none, column:NAME or a JSON file"),
    ],
)
def test_a_json_file_that_labels_nothing_is_told_in_one_line(root, text, said):
    (root / "tree/a/1").write_bytes(b"x")
    if text is not None:
        (root / "labels.json").write_text(text)
    with pytest.raises(UserError, match=said) as error:
        list(open_source(root.at("tree"), root.at("labels.json")).items())
    assert "\n" not in str(error.value) and ";" in str(error.value)


def test_a_column_of_a_source_without_columns_is_told(root):
    (root / "tree/a/1").write_bytes(b"x")
    with pytest.raises(UserError, match=r"tree has no column kind for data.labels; only Parquet, CSV"):
        list(open_source(root.at("tree"), "column:kind").items())
