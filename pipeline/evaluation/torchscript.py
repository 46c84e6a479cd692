"""Features by a TorchScript module that the user names, Inception-v3 for the FID say."""

import io
from pathlib import Path

import torch

from pipeline.config_values import PixelRange
from pipeline.errors import UserError
from pipeline.evaluation.features import BatchedExtractor, resized
from pipeline.evaluation.module_file import ModuleFile
from pipeline.location import absolute

_SCALES: dict[PixelRange, tuple[float, float]] = {"0-255": (1, 0), "0-1": (1 / 255, 0), "-1-1": (2 / 255, -1)}


class TorchScriptFeatures(BatchedExtractor):
    """What a TorchScript module gives for images of `pixels` a side, float32 `(n, 3, pixels, pixels)` in `range`.

    `uri` is a local path, or begins with https://, s3:// or gs://. The file is kept in `cache` under its `sha256`, and
    not one byte of it is interpreted before that is checked. Images are resized as for the other features, not by the
    module, and never rounded to grey levels. A module with an argument `return_features`, as FID's Inception in
    TorchScript has, is called with it. Raises UserError for a file of another sha256, and for one that is no module or
    does not give `(n, d)` or `(n, d, 1, 1)` for n images; Unavailable where it can not be fetched.
    """

    def __init__(self, uri: str, sha256: str, pixels: int, range: PixelRange, cache: Path, threads: int | None = None):
        self.file = ModuleFile(absolute(uri), sha256, cache)
        self.pixels, self.range, self.threads = pixels, range, threads
        self._network: torch.jit.ScriptModule | None = None
        self._given: dict[str, bool] = {}

    @property
    def name(self) -> str:
        return f"torchscript-{self.file.sha256[:12]}@{self.pixels}px-bicubic-aa-float-{self.range}"

    def load(self, *, keep: bool = True) -> None:
        """Has the module ready; `keep` says whether its file stays in the cache."""
        if self._network is not None:
            return
        data = self.file.read(keep=keep)
        try:
            network = torch.jit.load(io.BytesIO(data), map_location="cpu").eval()
        except RuntimeError as error:
            why = str(error).strip().splitlines()[0]
            raise UserError(f"{self.file.named} is no TorchScript module: {why}") from None
        arguments = [argument.name for argument in network.forward.schema.arguments]
        self._given = {"return_features": True} if "return_features" in arguments else {}
        self._network = network

    def compute(self, levels: torch.Tensor) -> torch.Tensor:
        assert self._network is not None
        scale, shift = _SCALES[self.range]
        x = (resized(levels, self.pixels) * scale + shift).expand(-1, 3, -1, -1).contiguous()
        try:
            found = self._network(x, **self._given)
        except RuntimeError as error:
            why = str(error).strip().splitlines()[-1]
            raise UserError(f"{self.file.named} fails on {tuple(x.shape)}: {why}") from None
        fits = isinstance(found, torch.Tensor) and found.ndim in (2, 4) and found.shape[2:].numel() == 1
        if not fits or len(found) != len(x):
            what = tuple(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
            raise UserError(f"{self.file.named} gives {what}, not ({len(x)}, features)")
        return found.reshape(len(x), -1).float()
