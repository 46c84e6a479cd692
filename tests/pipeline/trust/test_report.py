"""The report says what is so, whatever the names and the age of the version, and never stops an ingest."""

import io
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.shards.index import to_parquet
from pipeline.shards.manifest import DatasetRef, load_manifest
from pipeline.shards.on_ray import shard_images
from pipeline.shards.read import DatasetReader
from pipeline.storage import Storage
from pipeline.trust.facts import Facts, find_facts
from pipeline.trust.plots import class_plot, contact_sheet
from pipeline.trust.report import page, report_once, report_path

pytestmark = pytest.mark.usefixtures("without_ray")

HOSTILE = "<script>alert('x')&$\\frac{1}{0}$<img src=http:x>"


@pytest.fixture
def source(make_tree, tmp_path) -> Path:
    return Path(make_tree(tmp_path / "images", {"ant": range(0, 40), "bee": range(40, 100)}))


@pytest.fixture
def ingest(storage, data, source):
    return lambda: shard_images(storage, "pets", data(str(source))).dataset


class Page(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def read(storage: Storage, dataset: DatasetRef) -> Page:
    path = report_once(storage, dataset)
    assert path == report_path(dataset)
    return Page(storage.read(path).decode())


def with_columns(storage: Storage, dataset: DatasetRef, source: Path) -> None:
    """What the table of sources tells of the files, as Pillow sees them."""
    path = f"{dataset.folder}/sources.parquet"
    table = pq.read_table(io.BytesIO(storage.read(path)))
    columns: dict[str, list] = {"bytes": [], "width": [], "height": [], "mode": []}
    for row in table.to_pylist():
        file = source / row["path"]
        values = (file.stat().st_size, 0, 0, "")
        if row["status"] != "quarantined":
            with Image.open(file) as image:
                values = (file.stat().st_size, *image.size, image.mode)
        for column, value in zip(columns.values(), values, strict=True):
            column.append(value)
    types = {"bytes": pa.int64(), "width": pa.int32(), "height": pa.int32(), "mode": pa.string()}
    for name, values_of in columns.items():
        table = table.drop_columns([name] if name in table.schema.names else [])
        table = table.append_column(name, pa.array(values_of, types[name]))
    storage.write(path, to_parquet(table))


def without_columns(storage: Storage, dataset: DatasetRef) -> None:
    path = f"{dataset.folder}/sources.parquet"
    table = pq.read_table(io.BytesIO(storage.read(path)))
    new = [name for name in ("bytes", "width", "height", "mode") if name in table.schema.names]
    storage.write(path, to_parquet(table.drop_columns(new)))


def test_counts_by_split_and_class_are_the_readers(storage, ingest):
    dataset = ingest()
    facts = find_facts(storage, dataset)
    for side, split in enumerate(("train", "held_out")):
        labels = DatasetReader(storage, dataset, split).read_all()[1]
        assert [counts[side] for counts in facts.classes.values()] == np.bincount(labels, minlength=2).tolist()
    assert list(facts.classes) == ["ant", "bee"] and (facts.samples, facts.files) == (100, 100)


def test_sizes_and_modes_are_those_of_the_source_images(storage, source, ingest):
    for number, size in enumerate([(20, 40), (40, 20), (33, 33)]):
        Image.effect_noise(size, 90).save(source / f"ant/noise{number}.png")
    dataset = ingest()
    with_columns(storage, dataset, source)
    facts = find_facts(storage, dataset)
    assert facts.widths == {16: 100, 20: 1, 33: 1, 40: 1} and facts.heights == facts.widths
    assert facts.aspects == {-20: 1, 0: 101, 20: 1}
    assert facts.modes == {"L": 3, "RGB": 100}
    assert facts.bytes == sum(path.stat().st_size for path in source.rglob("*.png"))


def test_what_was_refused_is_shown_by_reason_with_the_first_files(storage, source, ingest):
    for number in range(7):
        (source / f"ant/bad{number}.png").write_bytes(b"no image")
    (source / "bee/half.png").write_bytes((source / "bee/0050.png").read_bytes()[:200])
    facts = find_facts(storage, ingest())
    assert [(one.reason, one.files) for one in facts.refused] == [("not_an_image", 7), ("truncated", 1)]
    assert [path for path, _ in facts.refused[0].examples] == [f"ant/bad{number}.png" for number in range(5)]
    assert facts.quarantined == 8 and "8 of 108 files, 7.4%, were left out" in read(storage, facts.dataset).text


def test_the_largest_groups_of_copies_come_first(storage, source, ingest):
    for number in range(3):
        shutil.copy(source / "bee/0050.png", source / f"bee/copy{number}.png")
    shutil.copy(source / "ant/0001.png", source / "bee/other.png")
    facts = find_facts(storage, ingest())
    assert facts.duplicates == 4
    assert [(one.files, one.examples) for one in facts.copies] == [
        (4, ["bee/0050.png", "bee/copy0.png", "bee/copy1.png", "bee/copy2.png"]),
        (2, ["ant/0001.png", "bee/other.png"]),
    ]


def test_what_came_and_went_since_the_parent(storage, source, ingest, make_tree):
    shutil.copy(source / "ant/0005.png", source / "bee/copy.png")
    first = ingest()
    (source / "ant/0005.png").unlink()  # its copy takes its place
    make_tree(source, {"ant": range(200, 203)})
    for number in (40, 41):
        (source / f"bee/{number:04}.png").unlink()
    (source / "bee/0042.png").rename(source / "ant/0042.png")  # another class: one went, one came
    (source / "ant/bad.png").write_bytes(b"no image")
    second = ingest()
    change = find_facts(storage, second).change
    assert change and change.parent == first.digest
    assert (change.came, change.went) == ({"ant": 4, "bee": 1}, {"bee": 3, "ant": 1})
    assert (change.samples, change.quarantined) == ((100, 101), (0, 1))
    assert "5 images came, 4 went" in " ".join(read(storage, second).text.split())
    storage.delete_folder(first.folder)
    assert find_facts(storage, second).change is None


def test_a_version_of_before_sizes_were_recorded_has_a_report_too(storage, ingest):
    dataset = ingest()
    without_columns(storage, dataset)
    assert "did not record the sizes" in read(storage, dataset).text


def test_images_without_classes_and_one_image_alone(storage, data, make_tree, tmp_path):
    for count, held_out in ((1, 0), (12, 0.5)):
        source = make_tree(tmp_path / f"{count}", {".": range(count)})
        dataset = shard_images(storage, f"plain{count}", data(source, held_out=held_out)).dataset
        shown = read(storage, dataset)
        assert "The images have no classes." in shown.text and find_facts(storage, dataset).classes.keys() == {""}


def test_the_page_needs_nothing_from_outside_and_says_what_its_pictures_show(storage, source, ingest):
    dataset = ingest()
    with_columns(storage, dataset, source)
    shown = read(storage, dataset)
    pictures = [attributes for tag, attributes in shown.tags if tag == "img"]
    assert len(pictures) == 4 and all(one["alt"] for one in pictures)
    assert all((one["src"] or "").startswith("data:image/png;base64,") for one in pictures)
    assert not {tag for tag, _ in shown.tags} & {"script", "link", "iframe", "object"}
    assert not any("href" in attributes for _, attributes in shown.tags)
    assert "url(" not in storage.read(report_path(dataset)).decode()


def test_no_name_from_outside_is_read_as_markup(storage, source, ingest):
    dataset = ingest()
    facts = find_facts(storage, dataset)
    worse = Facts(**{**vars(facts), "classes": {HOSTILE: (1, 2), "b": (1, 0)}, "modes": {HOSTILE: 100}})
    text = page(worse, None)
    assert "<script" not in text and HOSTILE in Page(text).text
    class_plot({HOSTILE: (1, 2), "$": (1, 1)})  # nor as mathematics


def test_a_class_a_line_would_not_fit_for_is_in_a_curve(storage, ingest):
    few, many = (class_plot({f"{n}": (n + 1, 0) for n in range(count)}) for count in (40, 10_000))
    heights = [Image.open(io.BytesIO(picture)).height for picture in (few, many)]
    assert heights[1] < heights[0] < 2000


def test_the_sheet_shows_training_images_alone_and_is_the_same_each_time(storage, ingest, pixels):
    dataset = ingest()
    sheet = contact_sheet(storage, dataset)
    assert sheet == contact_sheet(storage, dataset) == (report_once(storage, dataset) and storage.read(
        f"{dataset.folder}/report/contact.png"
    ))  # fmt: skip
    image = np.asarray(Image.open(io.BytesIO(sheet)))
    assert image.shape == (8 * 96, 8 * 96, 3)
    train = {one.tobytes() for one in DatasetReader(storage, dataset, "train").read_all()[0]}
    step = 94 / 16  # a source pixel's side in a cell, inside its edge
    middles = (1 + (np.arange(16) + 0.5) * step).astype(int)
    cells = image.reshape(8, 96, 8, 96, 3).swapaxes(1, 2).reshape(64, 96, 96, 3)
    shown = {cell[np.ix_(middles, middles)].tobytes() for cell in cells}
    assert len(shown) == 64 and shown <= train


def test_it_is_made_once_and_again_when_there_is_more_to_say(storage, source, ingest):
    dataset = ingest()
    report_once(storage, dataset)
    page = storage.local_path(report_path(dataset))
    written = page.stat().st_ino, page.stat().st_mtime_ns
    assert report_once(storage, ingest()) and (page.stat().st_ino, page.stat().st_mtime_ns) == written
    (source / "ant/bad.png").write_bytes(b"no image")
    assert ingest() == dataset
    assert "1 of 101 files" in read(storage, dataset).text


def test_what_goes_wrong_with_it_is_a_note_and_no_more(storage, ingest, heard):
    dataset = ingest()

    for shard in load_manifest(storage, dataset).shards:
        storage.delete(f"datasets/pets/shards/{shard.sha256}.tar")
    assert report_once(storage, dataset) is None
    told = heard.notes
    assert len(told) == 1 and told[0].startswith(f"no report on dataset pets {dataset.digest[:12]}: DamagedShard: ")
    assert not storage.exists(report_path(dataset))
