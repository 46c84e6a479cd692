"""A released generator for other runtimes."""

from typing import Annotated, Any

import typer

from flows.command import run_command, working
from flows.console import Console
from flows.options import Json, Reference, StorageOption, existing
from pipeline.errors import UserError
from pipeline.storage import Storage


def add_to(app: typer.Typer) -> None:
    app.command()(export)


def export(
    reference: Reference,
    out: Annotated[str, typer.Option(help="the file, local or s3://")] = "generator.onnx",
    storage: StorageOption = None,
    as_json: Json = False,
) -> None:
    """Writes a released generator as an ONNX file: latents, labels (if it has classes) and truncation to images.

    Example: ganline export mnist@champion --out mnist.onnx
    """

    def act(console: Console) -> None:
        with working(console, None, "export"), console.progress():
            made = _export(existing(storage), reference, out)
        console.result(made, [f"{made['model']} version {made['version']}: {made['out']}, {made['bytes']:,} bytes"])

    run_command(act, as_json)


def _export(storage: Storage, reference: str, out: str) -> dict[str, Any]:
    from flows.generate import split_grid
    from pipeline.redact import redact
    from pipeline.registry.lookup import load
    from pipeline.registry.onnx_file import to_onnx

    generator = load(reference, storage)
    found = generator.found
    assert found is not None
    told = {"model": found.model, "version": str(found.version), "weights.sha256": found.weights_sha256}
    data = to_onnx(generator, {f"ganline.{name}": value for name, value in told.items()})
    folder, name = split_grid(out)
    try:
        Storage(folder).write(name, data)
    except OSError as error:
        raise UserError(f"cannot write {redact(out)}: {error.strerror or error}; give another --out") from None
    return {"model": found.model, "version": found.version, "out": redact(out), "bytes": len(data)}
