"""A version's model card (Mitchell et al. 2019) in Markdown: what it is, what it was made from, how good it is."""

import re
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory

from mlflow.tracking import MlflowClient

from ganmodels.spec import NetworkSpec
from pipeline.redact import redact_within
from pipeline.registry.releases import ROLLED_BACK

CARD = "MODEL_CARD.md"  # among the files of the logged model
_LONGEST_DESCRIPTION = 5000  # what MLflow's database takes
_MOST_CLASSES = 100  # that are named one by one
_SPECIAL = re.compile(r"([\\`*_{}\[\]()#.!|~$:@])")


@dataclass(frozen=True)
class Card:
    """What a card tells. `figures` are full names and values, `samples` counts by split, `licence` None if not stated.

    `promoted` and `reason` are the gate's decision when it was released, `problem` what kept it from being measured.
    """

    model: str
    version: int
    spec: NetworkSpec
    classes: tuple[str, ...]
    dataset: str
    dataset_digest: str
    samples: dict[str, int]
    config_digest: str
    run: str
    checkpoint: str
    images_seen: int
    weights_sha256: str
    figures: tuple[tuple[str, float], ...]
    promoted: bool
    reason: str
    licence: str | None = None
    problem: str | None = None

    def render(self) -> str:
        """Markdown, the same each time; nothing in it that came from outside is markup."""
        parts = [
            f"# {_plain(self.model)}, version {self.version}",
            f"A generator of images, {self._shape()}, made with Ganline.",
            "## What it was trained on",
            _table(
                ("dataset", _plain(self.dataset)),
                ("digest", _code(self.dataset_digest)),
                ("images to train on", f"{self.samples.get('train', 0):,}"),
                ("images held out, never trained on", f"{self.samples.get('held_out', 0):,}"),
                ("classes", self._classes()),
                ("licence", _plain(self.licence) if self.licence else "not stated: `release.licence` of the recipe"),
            ),
            "## How",
            _table(
                ("networks", _code(self.spec.family)),
                ("their shape", _code(", ".join(f"{name} {value}" for name, value in self.spec.to_dict().items()))),
                ("images seen in training", f"{self.images_seen:,}"),
                ("run", _code(self.run)),
                ("checkpoint", _code(self.checkpoint)),
                ("digest of the recipe", _code(self.config_digest)),
                ("sha256 of the weights", _code(self.weights_sha256)),
                ("code", _code(", ".join(f"{name} {metadata.version(name)}" for name in ("ganline", "torch")))),
            ),
            "## How good",
            self._measured(),
            "## Decision",
            f"When it was released it was {'made the champion' if self.promoted else 'refused'}: {_plain(self.reason)}."
            " What was decided since is in the version's tags.",
            "## How to use it",
            self._usage(),
            "## Limits",
            self._limits(),
        ]
        return "\n\n".join(parts) + "\n"

    def _shape(self) -> str:
        colours = {1: "grey", 3: "RGB", 4: "RGB with transparency"}.get(self.spec.channels, str(self.spec.channels))
        return f"{self.spec.resolution} x {self.spec.resolution} pixels, {colours}"

    def _classes(self) -> str:
        if not self.classes:
            return "none: images are not made to order"
        names = ", ".join(map(_plain, self.classes[:_MOST_CLASSES]))
        return f"{len(self.classes)}: {names}{' ...' if len(self.classes) > _MOST_CLASSES else ''}"

    def _measured(self) -> str:
        if not self.figures:
            return f"Not measured: {_plain(self.problem or 'there were too few images held out')}."
        rows = [(_code(name), f"{value:.6g}") for name, value in self.figures]
        return f"Figures are comparable where their whole names are equal.\n\n{_table(*rows, head=('figure', 'value'))}"

    def _usage(self) -> str:
        reference = f"{self.model}@{self.version}"
        label = ", labels=0" if self.classes else ""
        lines = [
            "```python",
            "from pipeline.registry import load",
            "",
            f'images = load("{reference}").sample(16, seed=0{label})  # uint8 (16, height, width, channels)',
            "```",
            "",
            "```sh",
            f"ganline generate {reference} -n 64 --out grid.png",
            f"ganline export {reference} --out {self.model}.onnx",
            f"mlflow models serve -m models:/{self.model}/{self.version} --env-manager local",
            "```",
            "",
            "Image `i` of a seed is the same whoever makes it, to one grey level. `truncation` below 1 gives safer and"
            " less varied images.",
        ]
        return "\n".join(lines)

    def _limits(self) -> str:
        said = [
            "It makes images like those that it was trained on, with their gaps and their biases, and of nothing else.",
            "Its images are not of anything that exists. PNG files say so in their text (`ganline.model`), which who"
            " passes them on may take out.",
            "The figures compare distributions of features: they say nothing of a single image, and with few images"
            " held out they say little.",
            "Images near to training images were looked for in a sample only; that none was found does not prove that"
            " it can make none.",
        ]
        return "\n".join(f"- {line}" for line in said)


def write_card(client: MlflowClient, card: Card) -> None:
    """Puts the card among the version's files, and as its description, where MLflow's page shows it.

    Doing it again replaces it, but for a version that was rolled back: that is no word on its release. A licence
    becomes the tag `ganline.licence`, too.
    """
    text = card.render()
    version = client.get_model_version(card.model, str(card.version))
    if ROLLED_BACK in version.tags:
        return
    if logged := version.tags.get("ganline.logged_model"):
        with TemporaryDirectory() as folder:
            file = Path(folder, CARD)
            file.write_text(text, encoding="utf-8")
            client.log_model_artifact(logged, str(file))
    client.update_model_version(card.model, str(card.version), description=_shortened(text))
    if card.licence:
        client.set_model_version_tag(card.model, str(card.version), "ganline.licence", card.licence)


def _shortened(text: str) -> str:
    if len(text) <= _LONGEST_DESCRIPTION:
        return text
    more = f"\n\nThe rest is in {CARD}, among the model's files.\n"
    return text[: _LONGEST_DESCRIPTION - len(more)].rpartition("\n")[0] + more


def _table(*rows: tuple[str, str], head: tuple[str, str] = ("", "")) -> str:
    return "\n".join(f"| {left} | {right} |" for left, right in (head, ("---", "---"), *rows))


def _plain(text: str) -> str:
    """Without secrets, in one line, and as it is: no letter of it is Markdown or HTML."""
    text = redact_within(" ".join(text.split()))
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPECIAL.sub(r"\\\1", text)


def _code(text: str) -> str:
    """Likewise, as code, where it stays what it is but for backticks and bars: they become spaces."""
    return f"`{redact_within(' '.join(text.split())).replace('`', ' ').replace('|', ' ')}`"
