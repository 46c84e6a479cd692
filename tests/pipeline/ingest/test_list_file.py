import csv
import json

import pandas as pd
import pytest

from pipeline.errors import UserError
from pipeline.ingest.invalid import InvalidImage
from pipeline.ingest.source import open_source

ROWS = [("img/1.png", "cat"), ("img/a, b/ü 2.png", "dog"), ("img/3.png", ""), ("../root/img/4.png", "cat")]


def write(root, rows=ROWS):
    for number, (path, _) in enumerate(rows):
        (root / path).write_bytes(b"%d" % number)


def check(source, expected=("cat", "dog", None, "cat")):
    items = list(source.items())
    assert [(item.path, item.label) for item in items] == [
        (path, label) for (path, _), label in zip(ROWS, expected, strict=True)
    ]
    assert [item.size for item in items] == [1] * 4 and all(item.stamp != "missing" for item in items)
    assert list(source.read([item.path for item in items])) == [b"0", b"1", b"2", b"3"]


@pytest.mark.parametrize("column", ["path", "file_name", "image"])
@pytest.mark.parametrize("separator", [",", "\t", ";"])
def test_a_csv_as_pandas_writes_it(root, column, separator):
    write(root)
    frame = pd.DataFrame({"n": range(4), "label": [row[1] for row in ROWS], column: [row[0] for row in ROWS]})
    frame.to_csv(root / "list.csv", index=False, sep=separator, encoding="utf-8-sig")
    check(open_source(root.at("list.csv")))
    (root / "list.csv").rename(root / "list")  # known by its header too
    check(open_source(root.at("list"), "column:n"), ("0", "1", "2", "3"))
    check(open_source(root.at("list"), "none"), (None,) * 4)


def test_a_jsonl_as_pandas_writes_it(root):
    write(root)
    frame = pd.DataFrame({"file_name": [row[0] for row in ROWS], "label": [row[1] for row in ROWS], "n": range(4)})
    frame.to_json(root / "metadata.jsonl", orient="records", lines=True)
    check(open_source(root.at("metadata.jsonl")))
    check(open_source(root.at("metadata.jsonl"), "column:n"), ("0", "1", "2", "3"))


def test_a_column_with_a_name_of_its_own(root):
    write(root)
    with open(root / "list.csv", "w", newline="") as file:
        csv.writer(file).writerows([("where", "what"), *ROWS])
    check(open_source(root.at("list.csv"), "column:what", "where"))


def test_uris_and_absolute_paths(root, tmp_path):
    (tmp_path / "else where").mkdir()
    (tmp_path / "else where/1.png").write_bytes(b"absolute")
    (root / "img/2 x.png").write_bytes(b"uri")
    rows = [str(tmp_path / "else where/1.png"), (tmp_path / "else where/1.png").as_uri(), root.at("img/2 x.png")]
    (root / "list.jsonl").write_text("".join(json.dumps({"uri": row}) + "\n\n" for row in rows))
    source = open_source(root.at("list.jsonl"))
    assert list(source.read([item.path for item in source.items()])) == [b"absolute", b"absolute", b"uri"]


def test_a_listed_file_that_is_not_there_is_one_invalid_image(root):
    write(root)
    (root / "list.csv").write_text("path\nimg/1.png\nimg/gone.png\nimg/3.png\n")
    source = open_source(root.at("list.csv"))
    items = list(source.items())
    found = list(source.read([item.path for item in items]))
    assert (found[0], found[2]) == (b"0", b"2")
    assert isinstance(found[1], InvalidImage) and found[1].reason == "unreadable"
    (root / "img/gone.png").write_bytes(b"back")
    assert [a.stamp != b.stamp for a, b in zip(items, source.items(), strict=True)] == [False, True, False]


def test_a_long_list_keeps_its_order(root):
    for number in range(50):
        (root / f"img/{number}").write_bytes(b"%d" % number)
    (root / "list.csv").write_text("path\n" + "".join(f"img/{n % 50}\n" for n in range(2500)))
    source = open_source(root.at("list.csv"))
    items = list(source.items())
    assert [item.path for item in items] == [f"img/{n % 50}" for n in range(2500)]
    assert list(source.read([item.path for item in items[:300]])) == [b"%d" % (n % 50) for n in range(300)]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("list.csv", "where,label\na,b\n", r"no column path or file or .*, only where, label; name the one with the p"),
        ("list.csv", "path,label\na,b\n,c\n", "line 3 of .* has no path; add it, or take the line out"),
        ("list.csv", "path,label\n", "no files in"),
        ("list.csv", "", "no files in"),
        ("list.csv", 'path\n"a', "is a broken list: .*; write it as UTF-8 CSV or JSONL"),
        ("list.csv", b"path\n\xff\n", "is a broken list: .*; write it as UTF-8 CSV or JSONL"),
        ("list.jsonl", '{"path": "a"}\n{"path"\n', "is a broken list: line 2 is no JSON object; write it"),
        ("list.jsonl", '{"path": "a"}\n[1]\n', "is a broken list: line 2 is no JSON object; write it"),
        ("list.jsonl", '{"path": 3}\n', "line 1 of .* has no path; add it"),
        ("list.jsonl", '{"path": "a", "label": [1]}\n', "line 1 of .*: label is no text or number; write one"),
        ("list.csv", "path\nhttps://host/x.png\n", "cannot use https://host/ as a source"),
    ],
)
def test_a_list_that_cannot_be_read_is_told_in_one_line(root, name, text, said):
    (root / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=said) as error:
        list(open_source(root.at(name)).items())
    assert "\n" not in str(error.value) and ";" in str(error.value)


def test_a_column_that_is_not_there_is_told(root):
    write(root)
    (root / "list.csv").write_text("path,label\nimg/1.png,cat\n")
    with pytest.raises(UserError, match=r"has no column kind for data.labels"):
        list(open_source(root.at("list.csv"), "column:kind").items())
