"""A generator as an ONNX file, for runtimes without torch."""

import torch
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.registry.generator import Generator

_EXAMPLE_ROWS = 2  # the exporter takes one row for a constant

LATENTS, LABELS, TRUNCATION, IMAGES = "latents", "labels", "truncation", "images"


def to_onnx(generator: Generator, told: dict[str, str] | None = None) -> bytes:
    """An ONNX model whose images are the network's.

    Inputs: `latents` `(n, z_dim)` float32, standard normal; `labels` `(n,)` int64 where the generator has classes;
    `truncation` `()` float32, 1 for none. Output: `images` `(n, channels, r, r)` float32, about in [-1, 1]: clamp
    them. `told` goes with it as metadata.

    Raises UserError where the exporter is not installed, or can not express an operation of the network's.
    """
    spec = generator.spec
    latents, labels = torch.zeros(_EXAMPLE_ROWS, spec.z_dim), torch.zeros(_EXAMPLE_ROWS, dtype=torch.long)
    truncation, rows = torch.tensor(1.0), {0: torch.export.Dim("n")}
    network: nn.Module
    if spec.classes:
        network, inputs = _OfClasses(generator.network), {LATENTS: latents, LABELS: labels, TRUNCATION: truncation}
    else:
        network, inputs = _Plain(generator.network), {LATENTS: latents, TRUNCATION: truncation}
    try:
        import onnxscript  # noqa: F401
    except ImportError:
        raise UserError("to export ONNX takes two packages more: pip install onnx onnxscript") from None
    try:
        program = torch.onnx.export(
            network.eval(), (), kwargs=inputs, dynamo=True, verbose=False, output_names=[IMAGES],
            input_names=list(inputs), dynamic_shapes={name: {} if name == TRUNCATION else rows for name in inputs},
        )  # fmt: skip
    except torch.onnx.OnnxExporterError as error:
        reason = next((line for line in str(error.__cause__ or error).splitlines() if line.strip()), "no reason given")
        raise UserError(f"{spec.family} networks like this one can not be exported to ONNX: {reason}") from None
    assert program is not None
    program.model.metadata_props.update(told or {})
    return program.model_proto.SerializeToString()


class _Plain(nn.Module):
    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, latents: Tensor, truncation: Tensor) -> Tensor:
        return self.network(latents, None, truncation)


class _OfClasses(_Plain):
    def forward(self, latents: Tensor, labels: Tensor, truncation: Tensor) -> Tensor:  # type: ignore[override]
        return self.network(latents, labels, truncation)
