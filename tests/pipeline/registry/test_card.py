"""A version's model card says what it should, whatever the names that come from outside."""

from dataclasses import replace

import pytest
from markdown_it import MarkdownIt

from ganmodels.spec import NetworkSpec
from pipeline.registry.card import CARD, Card, write_card
from pipeline.registry.releases import ROLLED_BACK

FULL_NAME = "frechet[lite0 at 224 px, 2000 generated vs 250 held out, mean of seeds 0, 1, dots dddddddddddd]"
PLAIN = Card(
    model="dots", version=3, spec=NetworkSpec("dcgan", 16, 1, classes=2, width=4), classes=("off", "on"),
    dataset="dots", dataset_digest="d" * 64, samples={"train": 4750, "held_out": 250}, config_digest="c" * 64,
    run="dots-1", checkpoint="runs/dots-1/checkpoints/1", images_seen=20_000, weights_sha256="a" * 64,
    figures=((FULL_NAME, 12.3456789), ("floor_frechet[x]", 1.0)), promoted=False,
    reason="worse than version 1: 3.1 to 4.5 further", licence="CC-BY-4.0",
)  # fmt: skip

_SECRETS = "s3://key:word@bucket/images?token=abc"
_HOSTILE = (
    "<script>alert(1)</script>", "[click](http://evil.example/)", "![x](http://evil.example/x.png)", "a|b", "`code`",
    "two\n\n# lines", "**bold** _it_ ~~no~~", "www.evil.example", "http://evil.example/", "\\", "$$x$$", "&lt;b&gt;",
)  # fmt: skip


def _parsed(text: str):
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)
    return [inner for token in tokens for inner in [token, *(token.children or [])]]


def _structure(text: str) -> list[str]:
    return [token.type for token in _parsed(text) if token.type != "text"]


def test_it_tells_what_there_is_to_know():
    text = PLAIN.render()
    said = [
        "# dots, version 3", "16 x 16 pixels, grey", "| dataset | dots |", "d" * 64, "4,750", "| 250 |", "2: off, on",
        "CC-BY-4\\.0", "`dcgan`", "20,000", "`dots-1`", "c" * 64, "a" * 64, "ganline 0.1.0, torch 2.", "12.3457",
        f"| `{FULL_NAME}` |", "refused: worse than version 1\\: 3\\.1", 'load("dots@3").sample(16, seed=0, labels=0)',
        "mlflow models serve -m models:/dots/3 --env-manager local", "## Limits",
    ]  # fmt: skip
    assert [one for one in said if one not in text] == []
    assert text == PLAIN.render()
    assert "labels" not in replace(PLAIN, classes=(), spec=replace(PLAIN.spec, classes=0)).render()
    assert "Not measured: constant." in replace(PLAIN, figures=(), problem="constant").render()
    assert "not stated" in replace(PLAIN, licence=None).render()
    assert "made the champion" in replace(PLAIN, promoted=True).render()


def test_nothing_from_outside_is_markup_and_no_secret_is_told():
    text = replace(PLAIN, classes=("off",) * len(_HOSTILE)).render()
    hostile = replace(
        PLAIN, classes=_HOSTILE, reason=" ".join(_HOSTILE), licence=" ".join(_HOSTILE), dataset=_HOSTILE[1],
        figures=tuple((f"{name}[{name}]", 1.0) for name in _HOSTILE[:2]),
    )  # fmt: skip
    assert _structure(hostile.render()) == _structure(text)
    shown = " ".join(token.content for token in _parsed(hostile.render()) if token.type == "text")
    for name in _HOSTILE:
        assert " ".join(name.split()) in shown
    secret = replace(PLAIN, reason=_SECRETS, licence=_SECRETS, dataset=_SECRETS, classes=(_SECRETS,), run=_SECRETS)
    assert not {"word", "abc"} & set(secret.render().replace("=", " ").replace("@", " ").replace(":", " ").split())
    assert "word" not in secret.render() and "token=abc" not in secret.render()


def test_it_lies_among_the_files_and_is_the_description(world):
    version = world.release("carded", 0)
    card = replace(PLAIN, model="carded", version=version, reason="first")
    write_card(world.client, card)
    card = replace(card, reason="second")
    write_card(world.client, card)
    there = world.client.get_model_version("carded", str(version))
    assert there.description == card.render()
    assert there.tags["ganline.licence"] == "CC-BY-4.0"
    (file,) = world.storage.local_path("mlartifacts").rglob(f"{there.tags['ganline.logged_model']}/artifacts/{CARD}")
    assert file.read_text(encoding="utf-8") == card.render()


def test_what_is_decided_after_a_rollback_is_no_word_on_the_release(world):
    version = world.release("back", 0)
    card = replace(PLAIN, model="back", version=version, promoted=True)
    write_card(world.client, card)
    world.client.set_model_version_tag("back", str(version), ROLLED_BACK, "to version 9")
    write_card(world.client, replace(card, promoted=False, reason="it was rolled back"))
    assert world.client.get_model_version("back", str(version)).description == card.render()


@pytest.mark.parametrize("count", [100, 5000])
def test_a_long_one_is_cut_where_mlflow_takes_no_more(world, count):
    version = world.release("long-card", 0)
    classes = tuple(f"class number {number} of very many" for number in range(count))
    card = replace(PLAIN, model="long-card", version=version, classes=classes)
    write_card(world.client, card)
    description = world.client.get_model_version("long-card", str(version)).description
    assert 1000 < len(description) <= 5000
    assert f"The rest is in {CARD}" in description
    assert f"{count}: class number 0" in card.render()
