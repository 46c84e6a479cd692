"""What a user may write for tars, and one line for what leads nowhere."""

import re

import pytest

from pipeline.errors import UserError
from pipeline.shards.foreign.find import find_tars
from pipeline.shards.manifest import split_uri


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in ("a-0000.tar", "a-0001.tar", "a-0002.tar", "b.tar", "deep/c.tar", "odd{1}[x].tar"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        (["b.tar"], ["b.tar"]),
        (["a-{0000..0002}.tar"], ["a-0000.tar", "a-0001.tar", "a-0002.tar"]),
        (["{a-000{0,2},b}.tar"], ["a-0000.tar", "a-0002.tar", "b.tar"]),
        (["*.tar", "a-0000.tar", "./b.tar"], ["a-0000.tar", "a-0001.tar", "a-0002.tar", "b.tar", "odd{1}[x].tar"]),
        (["**/c.tar"], ["deep/c.tar"]),
        (["b.tar", "a-000[12].tar"], ["a-0001.tar", "a-0002.tar", "b.tar"]),
        (["odd{1}[x].tar"], ["odd{1}[x].tar"]),  # a file that is called so
    ],
)
@pytest.mark.parametrize("absolute", [False, True])
def test_each_tar_once_by_its_whole_path(folder, patterns, names, absolute):
    found = find_tars([str(folder / pattern) if absolute else pattern for pattern in patterns])
    assert [tar.uri for tar in found] == [str(folder / name) for name in names]
    assert [tar.size for tar in found] == [len(name) for name in names]


def test_uris_are_listed_a_folder_at_a_time(folder):
    found = find_tars([f"file://{folder}/a-{{0000..0001}}.tar", f"file://{folder}/b*"])
    assert [tar.uri for tar in found] == [f"file://{folder}/{name}" for name in ("a-0000.tar", "a-0001.tar", "b.tar")]
    for tar in found:
        storage, path = split_uri(tar.uri)
        assert len(storage.read(path)) == tar.size
    assert {tar.stamp for tar in found} == {
        f"{tar.size}-{(folder / tar.uri.rpartition('/')[2]).stat().st_mtime_ns}" for tar in found
    }


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("nowhere.tar", "no tar nowhere.tar; check the path"),
        ("a-{0000..0003}.tar", "no tar a-0003.tar, of a-{0000..0003}.tar"),
        ("z*.tar", "no tar z*.tar"),
        ("deep", "deep is a folder; give its tars: 'deep/*.tar'"),
        ("a-{0000..0003.tar", "a-{0000..0003.tar: Unbalanced braces"),
        ("a-{0..9999999999}.tar", "names more than 100,000 tars"),
        ("a-{0..999}{0..999}.tar", "names more than 100,000 tars"),
        ("s3://KEY:SECRET@bucket/a.tar", "holds a key or a user name"),
        ("file:///some/*/a.tar", "only a file name may have *"),
        ("pipe:cat x", "no tar pipe:cat x"),
        ("https://host/a.tar", "cannot list https://host"),
        ("file:///nowhere/at/all.tar", "no tar file:///nowhere/at/all.tar"),
    ],
)
def test_what_leads_nowhere_is_one_line(folder, pattern, said):
    with pytest.raises(UserError, match=re.escape(said)) as raised:
        find_tars([pattern])
    assert "SECRET" not in str(raised.value) and "\n" not in str(raised.value)


def test_the_query_of_a_uri_stays_at_its_end():
    storage, path = split_uri("s3://bucket/deep/a.tar?region=x")
    assert (storage.uri, path, storage.child_uri(path)) == ("s3://bucket/deep?region=x", "a.tar",
                                                           "s3://bucket/deep/a.tar?region=x")  # fmt: skip
    assert split_uri("/a.tar")[0].uri == "/" and split_uri("/a?b/c?d.tar")[1] == "c?d.tar"
