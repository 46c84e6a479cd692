"""What the gate lets through and what it stops: on figures, and on versions that real ingests made."""

import io
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from pipeline.config import DataGate
from pipeline.errors import UserError
from pipeline.shards.index import to_parquet
from pipeline.shards.manifest import DatasetRef, latest_version
from pipeline.shards.on_ray import shard_images
from pipeline.storage import Storage
from pipeline.trust.gate import Profile, admit, judge, ks_distance

LIMITS = DataGate()
OLD = Profile("0" * 64, 1000, 1050, 10, ("ant", "bee"), {64: 600, 128: 400}, {64: 1000})


def broken(new: Profile, old: Profile | None = OLD, limits: DataGate = LIMITS) -> list[tuple[str, float]]:
    return [(finding.key, pytest.approx(finding.figure)) for finding in judge(new, old, limits)]


# Figures


def test_a_version_like_the_one_before_breaks_nothing():
    assert broken(OLD) == broken(replace(OLD, samples=2000, classes=("ant", "bee", "cow"))) == []


@pytest.mark.parametrize(
    ("change", "key", "figure"),
    [
        ({"classes": ("bee",)}, "lost_classes", 1),
        ({"samples": 899}, "drop", 0.101),
        ({"files": 1000, "quarantined": 101}, "quarantined", 0.101),
        ({"widths": {64: 1000}}, "size_shift", 0.4),
        ({"heights": {64: 790, 65: 210}}, "size_shift", 0.21),
    ],
)
def test_each_limit_is_broken_just_above_and_kept_by_its_figure(change, key, figure):
    new = replace(OLD, **change)
    assert broken(new) == [(key, figure)]
    assert broken(new, limits=LIMITS.model_copy(update={key: judge(new, OLD, LIMITS)[0].figure})) == []


@pytest.mark.parametrize(
    "change",
    [
        {"samples": 900},
        {"files": 1000, "quarantined": 100},
        {"heights": {64: 800, 65: 200}},
        {"widths": {}, "heights": {}},
    ],
)
def test_a_limit_itself_is_kept(change):
    assert broken(replace(OLD, **change)) == []


def test_all_that_is_broken_is_told_of():
    worse = replace(OLD, samples=10, classes=(), files=100, quarantined=90, widths={1: 1})
    assert {key for key, _ in broken(worse)} == {"lost_classes", "drop", "quarantined", "size_shift"}


def test_a_first_version_can_only_have_too_many_files_refused():
    new = Profile("1" * 64, 3, 10, 7, (), {5: 3}, {5: 3})
    assert broken(new, old=None) == [("quarantined", 0.7)]
    assert broken(replace(new, quarantined=1), old=None) == []
    assert broken(Profile("1" * 64, 0, 0, 0, (), {}, {}), old=None) == []


def test_a_share_of_refused_files_that_was_wanted_once_is_no_news():
    wanted = replace(OLD, files=1000, quarantined=300)
    assert broken(replace(wanted, samples=1100, files=1100, quarantined=310), old=wanted) == []
    assert broken(replace(wanted, quarantined=301), old=wanted) == [("quarantined", 0.301)]


SIZES = st.lists(st.integers(1, 12), min_size=1, max_size=60)


@pytest.mark.filterwarnings("ignore:.*:RuntimeWarning")  # of the p-value, which is not asked for
@given(SIZES, SIZES)
def test_the_distance_is_scipys(one, other):
    counts = [
        dict(zip(*(a.tolist() for a in np.unique(sizes, return_counts=True)), strict=True)) for sizes in (one, other)
    ]
    assert ks_distance(*counts) == pytest.approx(ks_2samp(one, other, method="asymp").statistic)


# Versions

pytestmark = pytest.mark.usefixtures("without_ray")


@pytest.fixture
def source(make_tree, tmp_path) -> Path:
    return Path(make_tree(tmp_path / "images", {"ant": range(0, 20), "bee": range(20, 60)}))


@pytest.fixture
def ingest(storage, data, source):
    return lambda: shard_images(storage, "pets", data(str(source))).dataset


def remove(source: Path, count: int) -> None:
    for path in sorted(source.rglob("bee/*.png"))[:count]:
        path.unlink()


def with_sizes(storage: Storage, dataset: DatasetRef, width: int | None) -> None:
    """Has the version's table say that every source image is so wide and high; None: it does not say."""
    path = f"{dataset.folder}/sources.parquet"
    table = pq.read_table(io.BytesIO(storage.read(path)))
    kept = [status == "kept" for status in table["status"].to_pylist()]
    for name in ("width", "height"):
        table = table.drop_columns([name] if name in table.schema.names else [])
        if width is not None:
            table = table.append_column(name, pa.array([width if one else 0 for one in kept], pa.int32()))
    storage.write(path, to_parquet(table))


def test_a_drop_stops_every_night_until_somebody_accepts_it_or_the_images_return(storage, source, ingest):
    first = ingest()
    admit(storage, first, LIMITS)
    shutil.copytree(source, source.with_name("copy"))
    remove(source, 15)
    for _ in range(3):
        second = ingest()
        assert latest_version(storage, "pets") == second != first
        with pytest.raises(UserError) as refused:
            admit(storage, second, LIMITS)
    said = str(refused.value)
    assert "\n" not in said and "45 images are left of 60, 25.0% fewer; data.gate.drop is 0.1" in said
    assert second.digest[:12] in said and first.digest[:12] in said
    assert said.endswith("accept this version once with --set data.gate.drop=0.25")

    admit(storage, second, DataGate(drop=0.25))
    admit(storage, ingest(), LIMITS)  # once is enough
    remove(source, 1)
    admit(storage, ingest(), LIMITS)  # compared with what was accepted, not with what was before

    shutil.rmtree(source)
    source.with_name("copy").rename(source)
    admit(storage, ingest(), LIMITS)


def test_many_small_steps_are_each_compared_with_the_last_that_was_trained_on(storage, source, ingest):
    admit(storage, ingest(), LIMITS)
    remove(source, 4)
    ingest()  # sharded, never trained on
    remove(source, 4)
    with pytest.raises(UserError, match=r"52 images are left of 60, 13\.3% fewer"):
        admit(storage, ingest(), LIMITS)


def test_a_lost_class_is_seen_though_the_version_is_made_anew(storage, source, ingest, make_tree):
    make_tree(source, {"cow": range(60, 64)})
    admit(storage, ingest(), DataGate(drop=1))
    shutil.rmtree(source / "ant")
    with pytest.raises(UserError, match=r"classes without an image now: 1 \(ant\); data.gate.lost_classes is 0"):
        admit(storage, ingest(), DataGate(drop=1))
    admit(storage, ingest(), DataGate(drop=1, lost_classes=1))


def test_files_that_are_refused_count_though_the_images_stay_the_same(storage, source, ingest):
    first = ingest()
    admit(storage, first, LIMITS)
    for number in range(9):
        (source / f"ant/bad{number}.png").write_bytes(b"no image %d" % number)
    assert ingest() == first
    with pytest.raises(UserError, match=r"9 of 69 files were quarantined, 13\.0%; data\.gate\.quarantined is 0\.1"):
        admit(storage, first, LIMITS)
    admit(storage, first, DataGate(quarantined=0.131))
    admit(storage, ingest(), LIMITS)


def test_a_shift_in_sizes_is_measured_where_both_versions_know_them(storage, source, ingest, make_tree):
    versions = [ingest()]
    for number in (70, 71):
        make_tree(source, {"bee": [number]})
        versions.append(ingest())
    for version, width in zip(versions, (None, 300, 310), strict=True):
        with_sizes(storage, version, width)
    admit(storage, versions[0], LIMITS)
    admit(storage, versions[1], LIMITS)
    with pytest.raises(UserError, match=r"source images' widths shifted by 1\.00 \(Kolmogorov-Smirnov distance\)"):
        admit(storage, versions[2], LIMITS)
    admit(storage, versions[2], DataGate(size_shift=1.0))


def test_a_version_that_was_deleted_since_is_no_measure(storage, source, ingest):
    first = ingest()
    admit(storage, first, LIMITS)
    remove(source, 30)
    second = ingest()
    storage.delete_folder(first.folder)
    admit(storage, second, LIMITS)
