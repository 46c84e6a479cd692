"""Emoji at 64 px: fetches them, trains Ganline's `emoji64`, and shows what it made: `--minutes 60`.

The 3,786 PNG files of the npm package emoji-datasource-google (Google's Noto emoji, as iamcal's emoji-data cuts them)
come by `npm pack`, 74 MB, and are checked by their published sha512. The five swatches of skin colour are left out; the
nine categories are the classes. It trains for at most `--minutes` of steps through `ganline run`, then measures and
releases `emoji64`; stop it at any time, the same command continues. Writes a grid of generated emoji, one category a
column, and the figures over images as JSON and as a plot.

Example: python tests/benchmarks/emoji.py --minutes 60
"""

import argparse
import base64
import hashlib
import io
import json
import re
import shlex
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from pieces import GANLINE, Pieces, machine, over_images, train_for

from flows.stages import averaged_generator
from pipeline.evaluation.remembered import evaluate_once
from pipeline.storage import Storage, default_uri
from pipeline.training.grid import sample_grid

PRESET = "emoji64"
PACKAGE = "emoji-datasource-google@16.0.0"
SHA512 = "ZRexfzs7MVoLnmzZmNsO4TKhnAJp5D++Vm6PpUpH/jEQQlemp3l88CjZ+DoZ2faM9R4QxZkOPJCoT8DlPhfQ3A=="
IMAGE = re.compile(r"package/img/google/64/([0-9a-z-]+\.png)")
HERE = Path(__file__).parent


def main() -> int:
    given = arguments()
    listing = given.images / "emoji.jsonl"
    if not listing.exists():
        fetch(given.images, given.tarball)
    if given.fetch_only:
        return 0
    storage = Storage(given.storage)
    storage.prepare()
    sets = [f"data.source={listing.absolute()}"]
    pieces = train_for(given.minutes, PRESET, sets, storage)
    # The rest of the way with what there is by now: measured, and released.
    told = [*sets, f"training.images={pieces.images}"]
    command = [GANLINE, "run", PRESET, "--storage", storage.uri, *(part for one in told for part in ("--set", one))]
    subprocess.run(command, check=True)

    result = {
        "command": shlex.join(["python", "tests/benchmarks/emoji.py", *sys.argv[1:]]),
        "machine": machine(),
        "package": PACKAGE, "run": pieces.plan.run, "images": pieces.images, "seconds": round(pieces.seconds, 1),
        "images_per_second": round(pieces.images / pieces.seconds, 1),
        "losses": [{"images": point["images"], **{key: round(point["metrics"][key], 4) for key in ("loss_g", "loss_d")}}
                   for point in pieces.points],
        "curve": measured(pieces, storage, given.points),
    }  # fmt: skip
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=1) + "\n")
    generator, _ = averaged_generator(storage, pieces.checkpoints[-1], pieces.plan.spec, pieces.plan.classes)
    given.out.with_suffix(".png").write_bytes(sample_grid(generator.network, pieces.plan.spec))
    plot(result, given.out.with_name(f"{given.out.stem}_curve.png"))
    print(f"{given.out}, and beside it the grid and the plot; columns: {', '.join(pieces.plan.classes)}")
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0, help="of steps (60)")
    parser.add_argument("--points", type=int, default=8, help="checkpoints that are measured (8)")
    parser.add_argument("--images", type=Path, default=Path("emoji"), help="where the emoji lie, or will (emoji)")
    parser.add_argument("--tarball", type=Path, help=f"{PACKAGE}, fetched already; default: npm pack fetches it")
    parser.add_argument("--fetch-only", action="store_true", help="get the emoji, and train on nothing")
    parser.add_argument("--storage", default=default_uri(), help="default: GANLINE_STORAGE, else .ganline")
    parser.add_argument("--out", type=Path, default=HERE / "results/emoji64.json", help="the pictures lie beside it")
    return parser.parse_args()


def fetch(folder: Path, tarball: Path | None) -> None:
    """The PNG files and, written last, `emoji.jsonl` with each file's category."""
    with tempfile.TemporaryDirectory() as there:
        if tarball is None:
            try:
                subprocess.run(["npm", "pack", "--silent", PACKAGE], cwd=there, check=True, stdout=subprocess.DEVNULL)
            except (OSError, subprocess.CalledProcessError) as error:
                raise SystemExit(f"npm pack {PACKAGE}: {error}; fetch it otherwise and give it as --tarball") from None
            (tarball,) = Path(there).glob("*.tgz")
        data = tarball.read_bytes()
    if base64.b64encode(hashlib.sha512(data).digest()).decode() != SHA512:
        raise SystemExit(f"the sha512 is not that of {PACKAGE}; delete {tarball} and fetch it again")
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
        for member in archive:
            if not member.isfile() or (file := archive.extractfile(member)) is None:
                continue
            if found := IMAGE.fullmatch(member.name):
                (folder / found[1]).write_bytes(file.read())
            elif member.name == "package/emoji.json":
                entries = json.load(file)
    lines = [json.dumps(row) for row in rows(entries) if (folder / row["path"]).exists()]
    (folder / "emoji.jsonl").write_text("\n".join(lines) + "\n")
    print(f"{len(lines):,} emoji in {folder}")


def rows(entries: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Each emoji and its variants of skin colour, by path and category."""
    return [
        {"path": image["image"], "label": entry["category"]}
        for entry in entries
        if entry["category"] != "Component"
        for image in (entry, *entry.get("skin_variations", {}).values())
    ]


def measured(pieces: Pieces, storage: Storage, most: int) -> list[dict[str, float]]:
    """`most` checkpoints against the held-out emoji, evenly spread, with the last one among them."""
    settings, curve = pieces.config.evaluation, []
    for checkpoint in pieces.spread(most):
        generator, _ = averaged_generator(storage, checkpoint, pieces.plan.spec, pieces.plan.classes)
        report, _ = evaluate_once(storage, pieces.dataset, generator, images=settings.images, seeds=settings.seeds)
        curve.append({"images": checkpoint.images, **{key: round(value, 4) for key, value in report.metrics.items()}})
        print(f"{checkpoint.images:>9,} images: {curve[-1]}", flush=True)
    return curve


def plot(result: dict[str, Any], path: Path) -> None:
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for key in ("loss_g", "loss_d"):
        left.plot(
            [point["images"] for point in result["losses"]], [point[key] for point in result["losses"]], label=key
        )
    right.plot(
        [point["images"] for point in result["curve"]], [point["frechet"] for point in result["curve"]], marker="o"
    )
    over_images(left, right)
    left.set(title=result["run"])
    left.legend()
    right.set(title="Fréchet distance of EfficientNet-Lite0 features")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    sys.exit(main())
