import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import UserError
from pipeline.ingest import parquet_file
from pipeline.ingest.invalid import InvalidImage
from pipeline.ingest.source import open_source, read_one

draws = random.Random(0)
IMAGES = [draws.randbytes(200 + 37 * n % 900) for n in range(300)]


def table(start: int, end: int, kind: str) -> pa.Table:
    """As a person writes it (binary), or as `datasets` does: struct<bytes, path>, and names in the schema."""
    labels = pa.array([n % 3 for n in range(start, end)], pa.int64())
    if kind == "struct":
        images = pa.array([{"bytes": data, "path": None} for data in IMAGES[start:end]], HF_IMAGE)
        features = {"image": {"_type": "Image"}, "label": {"names": ["ant", "bee", "wasp"], "_type": "ClassLabel"}}
        metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    else:
        images = pa.array(IMAGES[start:end], getattr(pa, kind)())
        metadata = None
    split = pa.array(["test" if n % 2 else "train" for n in range(start, end)])
    return pa.table({"label": labels, "image": images, "split": split}).replace_schema_metadata(metadata)


HF_IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})


@pytest.mark.parametrize("kind", ["binary", "large_binary", "struct"])
@pytest.mark.parametrize("options", [{}, {"compression": "none", "use_dictionary": False}, {"row_group_size": 7}])
def test_rows_of_all_files_are_items(root, kind, options):
    pq.write_table(table(0, 200, kind), root / "set/data/train-00000-of-00002.parquet", **options)
    pq.write_table(table(200, 300, kind), root / "set/data/train-00001-of-00002.parquet", **options)
    (root / "set/README.md").write_text("notes")
    source = open_source(root.at("set"))
    items = list(source.items())
    assert [item.path for item in items] == [
        f"data/train-0000{n >= 200:d}-of-00002.parquet#{n - 200 * (n >= 200)}" for n in range(300)
    ]
    names = ["ant", "bee", "wasp"] if kind == "struct" else ["0", "1", "2"]
    assert [item.label for item in items] == [names[n % 3] for n in range(300)]
    assert sum(item.size for item in items) == pytest.approx(sum(map(len, IMAGES)), rel=0.4)  # by row group
    assert len({item.stamp for item in items}) > 150
    assert list(source.read([item.path for item in items])) == IMAGES
    order = random.Random(1).sample(range(300), 50)
    assert list(source.read([items[n].path for n in order])) == [IMAGES[n] for n in order]
    single = open_source(root.at("set/data/train-00001-of-00002.parquet"), "column:split")
    assert [(i.path, i.label) for i in single.items()][:2] == [
        ("train-00001-of-00002.parquet#0", "train"),
        ("train-00001-of-00002.parquet#1", "test"),
    ]
    assert read_one(single, "train-00001-of-00002.parquet#42") == IMAGES[242]


def test_a_stamp_changes_with_the_file(root):
    pq.write_table(table(0, 5, "binary"), root / "a.parquet")
    before = [item.stamp for item in open_source(root.at("a.parquet")).items()]
    pq.write_table(table(1, 6, "binary"), root / "a.parquet")
    assert not {item.stamp for item in open_source(root.at("a.parquet")).items()} & set(before)


def test_neighbours_are_decoded_once_even_over_two_calls(root, monkeypatch):
    pq.write_table(table(0, 300, "binary"), root / "a.parquet")
    source, seen = open_source(root.at("a.parquet")), []
    values = parquet_file._values

    def counted(*arguments):
        for value in values(*arguments):
            seen.append(value)
            yield value

    monkeypatch.setattr(parquet_file, "_values", counted)
    paths = [item.path for item in source.items()]
    assert [*source.read(paths[:100]), *source.read(paths[100:])] == IMAGES
    assert seen == IMAGES


def test_a_row_without_bytes_is_one_invalid_image(root):
    rows = [{"bytes": b"1", "path": None}, None, {"bytes": None, "path": "x.png"}, {"bytes": b"2", "path": None}]
    pq.write_table(pa.table({"image": pa.array(rows, HF_IMAGE)}), root / "a.parquet")
    source = open_source(root.at("a.parquet"))
    items = list(source.items())
    assert [item.label for item in items] == [None] * 4
    found = list(source.read([item.path for item in items]))
    assert (found[0], found[3]) == (b"1", b"2")
    assert [each.reason for each in found if isinstance(each, InvalidImage)] == ["empty", "empty"]


def test_a_class_number_without_a_name_is_no_label(root):
    rows = table(0, 3, "struct").set_column(0, "label", pa.array([-1, 1, 9]))
    pq.write_table(rows, root / "a.parquet")
    assert [item.label for item in open_source(root.at("a.parquet")).items()] == [None, "bee", None]


def test_a_damaged_row_group_is_its_rows_alone(root):
    pq.write_table(
        table(0, 300, "binary"), root / "a.parquet", row_group_size=100, use_dictionary=False, compression="gzip"
    )
    source = open_source(root.at("a.parquet"))
    paths = [item.path for item in source.items()]
    place = pq.ParquetFile(root / "a.parquet").metadata.row_group(1).column(1).data_page_offset
    data = bytearray((root / "a.parquet").read_bytes())
    data[place + 60 : place + 20000] = bytes(19940)
    (root / "a.parquet").write_bytes(data)
    found = list(source.read(paths))
    assert found[:100] == IMAGES[:100] and found[200:] == IMAGES[200:]
    assert all(isinstance(each, InvalidImage) and each.reason == "corrupt" for each in found[100:200])


@pytest.mark.parametrize(
    ("columns", "arguments", "said"),
    [
        ({"a": b"1", "b": b"2"}, {}, "has several columns of bytes: a, b; name one as data.image_column"),
        ({"a": b"1", "n": 2}, {"image_column": "n"}, "column n of .* holds no image bytes; set .* to one of a"),
        ({"n": 1, "m": 2}, {}, "has no column of image bytes, only n, m; give images as binary columns"),
        ({"a": b"1", "n": 2}, {"labels": "column:kind"}, "no column kind for data.labels; it has a, n"),
        ({"a": b"1", "n": [2]}, {"labels": "column:n"}, "column n of .* is a list.*, no label; name another"),
    ],
)
def test_columns_that_do_not_say_themselves_what_they_are(root, columns, arguments, said):
    pq.write_table(pa.table({name: [value] for name, value in columns.items()}), root / "t.parquet")
    with pytest.raises(UserError, match=said) as error:
        list(open_source(root.at("t.parquet"), **arguments).items())
    assert "\n" not in str(error.value)


def test_an_image_column_chooses(root):
    pq.write_table(pa.table({"a": [b"1"], "b": [b"2"]}), root / "a.parquet")
    source = open_source(root.at("a.parquet"), image_column="b")
    assert [read_one(source, item.path) for item in source.items()] == [b"2"]


def test_a_cut_file_is_told(root):
    pq.write_table(table(0, 300, "binary"), root / "a.parquet")
    data = (root / "a.parquet").read_bytes()
    for kept in (10, len(data) // 2, len(data) - 5):
        (root / "a.parquet").write_bytes(data[:kept])
        with pytest.raises(UserError, match=r"cannot read .*a\.parquet: .*; make or copy it again") as error:
            list(open_source(root.at("a.parquet")).items())
        assert "\n" not in str(error.value)
