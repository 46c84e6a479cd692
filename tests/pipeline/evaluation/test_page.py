"""The page says what is so, whatever the names, needs nothing else to be read, and is made once."""

import io
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from ganmodels.networks import build_generator
from ganmodels.spec import NetworkSpec
from pipeline.evaluation.evaluate import evaluate
from pipeline.evaluation.page.curves import curve, draw, series
from pipeline.evaluation.page.figures import rows
from pipeline.evaluation.page.neighbours import Pairs, nearest, pair_sheet
from pipeline.evaluation.page.page import Subject, page, pictures
from pipeline.evaluation.page.stored import find_pairs, page_once
from pipeline.evaluation.real import Wanted, extract, images_of
from pipeline.evaluation.report import ClassRow, EvaluationReport, Figure
from pipeline.registry.generator import Generator
from pipeline.shards.manifest import DatasetRef, load_manifest

pytestmark = pytest.mark.usefixtures("one_thread")

HOSTILE = "<script>alert('x')&\"$\\frac{1}{0}$<img src=http:x>"
POINTS = [{"images": i, "metrics": {"loss_g": 1 / i, "loss_d": 2.0, "frechet": 9.0}} for i in range(100, 1000, 100)]
REPORT = EvaluationReport(
    DatasetRef("digits", "d" * 64), "w" * 64, "pixels", 400, 300, 300, (0, 1),
    (
        Figure("frechet[pixels, 400 generated]", 3.25), Figure("frechet_low[pixels, 400 generated]", 3.0),
        Figure("frechet_high[pixels, 400 generated]", 3.5), Figure("kernel[pixels]", 0.125),
        Figure("kernel_standard_error[pixels]", 0.025), Figure("recall[pixels, k 5]", 0.75),
        Figure("floor_frechet[pixels, 300 training]", 0.5),
    ),
)  # fmt: skip


class Page(HTMLParser):
    """Tags with their attributes, the text, the text of each `h2`, and the cells of tables, row by row."""

    def __init__(self, text: bytes):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.headings: list[str] = []
        self.rows: list[list[str]] = []
        self._open = ""
        self.feed(text.decode())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._open = tag
        if tag == "h2":
            self.headings.append("")
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        self._open = ""

    def handle_data(self, data):
        self.text += data
        if self._open == "h2":
            self.headings[-1] += data
        elif self._open in ("td", "th"):
            self.rows[-1][-1] += data


class Copies(torch.nn.Module):
    """A network that gives one of `images`, uint8 `(n, H, W, C)`: which one is a function of the latent."""

    def __init__(self, images: np.ndarray):
        super().__init__()
        self.register_buffer("images", torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1)

    def forward(self, z, labels, truncation=1.0):
        return self.images[(z[:, 0].abs() * 1e5).long() % len(self.images)]


def made(classes: tuple[str, ...] = ("one", "two"), channels: int = 1) -> Generator:
    torch.manual_seed(0)
    spec = NetworkSpec("dcgan", 16, channels, classes=len(classes), z_dim=4, width=2, max_width=4)
    return Generator(build_generator(spec), spec, classes)


def five_pairs() -> Pairs:
    """Grey images of one level each: 10 to 50 were generated, and are nearest to training images of 110 to 150."""
    levels = np.arange(10, 60, 10, dtype=np.uint8)[:, None, None, None]
    generated, training = (np.broadcast_to(one, (5, 4, 4, 1)) for one in (levels, levels + 100))
    return Pairs(generated, training, np.arange(5.0), 1.5)


def size(png: bytes) -> tuple[int, int]:
    picture = Image.open(io.BytesIO(png))
    assert picture.format == "PNG"
    return picture.size


def test_everything_on_it_is_in_it_and_no_name_is_markup():
    subject = Subject(HOSTILE, replace(REPORT, classes=(HOSTILE,)), made((HOSTILE, "two")), POINTS, five_pairs())
    shown = pictures(subject)
    assert set(shown) == {
        "samples", "losses", "measured", "classes", "interpolations", "truncations", "neighbours",
    }  # fmt: skip
    assert size(shown["samples"]) == (8 * 72, 8 * 72)
    assert size(shown["truncations"]) == (6 * 72, 6 * 72) and size(shown["classes"]) == (8 * 72, 2 * 72)
    found = Page(page(subject, shown))
    images = [attributes for tag, attributes in found.tags if tag == "img"]
    assert len(images) == len(shown) and all(one["alt"] for one in images)
    assert all(one["src"].startswith("data:image/png;base64,") for one in images)
    assert not {"script", "link", "iframe"} & {tag for tag, _ in found.tags}
    assert not [value for _, attributes in found.tags for name, value in attributes.items() if name == "href"]
    assert found.text.count(HOSTILE) >= 4  # title, heading, the classes compared, the list of classes
    assert found.headings == [
        "Samples", "Figures", "Training", "Classes", "Interpolations", "Truncation", "Nearest training images",
    ]  # fmt: skip
    assert all(figure.name in found.text for figure in REPORT.figures if figure.key in ("frechet", "kernel", "recall"))


def test_what_is_not_there_is_said_or_left_out():
    subject = Subject("plain", REPORT, made(()))
    shown = pictures(subject)
    assert set(shown) == {"samples", "interpolations", "truncations"}
    text = Page(page(subject, shown)).text
    assert "The run's telemetry is not here." in text and "They were not looked for." in text
    assert "Classes" not in text and "champion" not in text


def test_figures_stand_beside_what_they_can_be_compared_with():
    champion = replace(
        REPORT, figures=(Figure("frechet[pixels, 400 generated]", 4.0), Figure("recall[pixels, k 3]", 0.9))
    )
    found = {row.key: row for row in rows(REPORT, champion)}
    assert list(found) == ["frechet", "kernel", "recall"]
    frechet = found["frechet"]
    assert (frechet.value, frechet.within, frechet.floor, frechet.champion) == (3.25, "3 to 3.5", 0.5, 4.0)
    assert found["kernel"].within == "\N{PLUS-MINUS SIGN} 0.025" and found["kernel"].floor is None
    assert found["recall"].champion is None and found["recall"].otherwise  # another k
    assert not any(row.otherwise for row in rows(REPORT, None))
    shown = Page(page(Subject("it", REPORT, made(), champion=("it version 2", champion)), {}))
    assert shown.rows == [
        ["figure", "value", "within", "training images", "it version 2"],
        ["frechet", "3.25", "3 to 3.5", "0.5", "4"],
        ["kernel", "0.125", "\N{PLUS-MINUS SIGN} 0.025", "", "measured otherwise"],
        ["recall", "0.75", "", "", "measured otherwise"],
    ]


def test_each_class_has_its_figures_where_the_report_has_them():
    report = replace(REPORT, per_class=(ClassRow(HOSTILE, 1200, 150, 200, 12.5, None, 0.875),))
    found = Page(page(Subject("it", report, made()), {"classes": b"a picture"}))
    assert not [tag for tag, _ in found.tags if tag == "script"]
    assert found.rows[-1] == [HOSTILE, "1,200", "150", "12.5", "\N{EN DASH}", "87.5%"]


def test_curves_hold_what_was_finite_and_last_written():
    points = [
        *POINTS,
        {"images": 100, "metrics": {"loss_g": 7.0}},
        {"images": 150, "metrics": {"loss_g": float("nan")}},
    ]
    images, values = series(points, "loss_g")
    assert images.tolist() == list(range(100, 1000, 100)) and values[0] == 7.0
    assert len(series([{"images": i, "metrics": {"a": 1.0}} for i in range(9000)], "a")[0]) == 2000
    assert curve([{"images": 5}], ("loss_g",)) is None
    assert size(curve(points, ("loss_g", "loss_d")))[0] == 780


def test_curves_are_over_thousands_of_images():
    axes = draw(POINTS, ("loss_g", "loss_d")).axes[0]
    assert [line.get_label() for line in axes.lines] == ["loss_g", "loss_d"]
    for line, values in zip(axes.lines, ([1 / i for i in range(100, 1000, 100)], [2.0] * 9), strict=True):
        np.testing.assert_allclose(line.get_xdata(), np.arange(0.1, 1, 0.1))
        np.testing.assert_allclose(line.get_ydata(), values)
    assert axes.get_xlabel() == "thousand images seen"


def test_a_pair_has_the_generated_image_to_the_left_and_the_nearest_come_first():
    pairs = five_pairs()
    cells = np.asarray(Image.open(io.BytesIO(pair_sheet(pairs))))[36::72, 36::72]
    assert cells.shape == (2, 8, 3)
    assert cells[0, :, 0].tolist() == [10, 110, 20, 120, 30, 130, 40, 140] and cells[1, :2, 0].tolist() == [50, 150]
    assert pairs.closer == 2


def test_the_nearest_are_those_of_all_pairs():
    draw = np.random.default_rng(0)
    a, b = draw.normal(size=(1300, 5)).astype(np.float32), draw.normal(size=(50, 5)).astype(np.float32)
    distances = np.linalg.norm(a[:, None].astype(np.float64) - b[None], axis=2)
    found = nearest(a, b, 7)
    assert found.generated.tolist() == np.argsort(distances.min(1))[:7].tolist()
    assert found.training.tolist() == distances.argmin(1)[found.generated].tolist()
    np.testing.assert_allclose(found.distances, np.sort(distances.min(1))[:7], rtol=1e-12)


def test_copies_are_shown_beside_what_they_are_copies_of(fresh, extractor, training_images):
    spec = NetworkSpec("dcgan", 28, 1, z_dim=2)
    generator = Generator(Copies(training_images), spec)
    report, features = evaluate(*fresh, generator, images=120, seeds=(3,), extractor=extractor)
    pairs = find_pairs(fresh[0], report, features, generator)
    same = (pairs.generated == pairs.training).all(axis=(1, 2, 3))
    assert same.sum() >= 10 and pairs.closer >= 10  # not all: the images compared are only some of the training images
    assert len(np.unique(pairs.generated, axis=0)) > 5


def test_the_images_of_rows_are_those_whose_features_they_have(fresh, extractor):
    storage, dataset = fresh
    wanted = Wanted(dataset, "train", 200, extractor.name, tuple(load_manifest(storage, dataset).classes[:3]))
    side = extract(storage, wanted, range(100), extractor, lambda count: None)
    asked = np.array([70, 3, 3, 99])
    np.testing.assert_array_equal(
        extractor(images_of(storage, wanted, asked), lambda count: None), side.features[asked]
    )


def test_a_page_is_made_once(fresh, extractor, plays, training_images):
    storage, dataset = fresh
    spec = NetworkSpec("dcgan", 28, 1, classes=10, z_dim=2)
    generator = Generator(Copies(training_images), spec, tuple(load_manifest(storage, dataset).classes))
    report, features = evaluate(*fresh, generator, images=60, seeds=(0,), extractor=extractor)
    folder, files = page_once(storage, "digits version 1", report, features, generator, POINTS)
    assert {"index.html", "samples.png", "neighbours.png", "losses.png", "classes.png"} < set(files)
    assert {name: storage.read(f"{folder}/{name}") for name in files} == files
    assert storage.read_json(f"{folder}.json") == {"dataset": dataset.digest}  # whose images it shows
    storage.write(f"{folder}/samples.png", b"as it was")
    again = page_once(storage, "digits version 1", report, features, generator, POINTS)
    assert again == (folder, files | {"samples.png": b"as it was"})
    storage.delete(f"{folder}/index.html")  # as a crash would leave it
    assert page_once(storage, "digits version 1", report, features, generator, POINTS) == (folder, files)
    champion = ("digits version 7", replace(report, weights="o" * 64))
    other, compared = page_once(storage, "digits version 1", report, features, generator, POINTS, champion)
    assert other != folder and b"digits version 7" in compared["index.html"]
