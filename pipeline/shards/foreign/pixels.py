"""How the bytes of a row become pixels: our own encodings as they were written, foreign images as an ingest would."""

from collections.abc import Callable

import numpy as np

from pipeline.ingest.image import ImageRules, InvalidImage, decode
from pipeline.shards.encoding import Put
from pipeline.shards.encoding import decode as decode_own
from pipeline.shards.encoding import decoder as put_own
from pipeline.shards.manifest import FOREIGN, Manifest


def decoder(manifest: Manifest) -> Callable[[bytes], np.ndarray]:
    """Bytes -> uint8 `(resolution, resolution, channels)`; it raises ValueError, OSError or InvalidImage."""
    if manifest.encoding != FOREIGN:
        return lambda data: decode_own(data, manifest.encoding, manifest.channels)
    rules = rules_of(manifest)
    return lambda data: decode(data, rules).pixels


def put_into(manifest: Manifest, images: np.ndarray) -> Put:
    """Puts an image at a place of a batch, uint8 `(n, h, w, c)`; it raises ValueError or OSError."""
    if manifest.encoding != FOREIGN:
        return put_own(manifest.encoding, images)
    rules = rules_of(manifest)

    def put(place: int, data: memoryview) -> None:
        try:
            images[place] = decode(bytes(data), rules).pixels
        except InvalidImage as why:
            raise ValueError(str(why)) from None

    return put


def rules_of(manifest: Manifest) -> ImageRules:
    made = manifest.processing
    return ImageRules(
        manifest.resolution,
        manifest.channels,
        made["background"],
        min_side=made["min_side"],
        max_aspect=made["max_aspect"],
        fixes=tuple(made["fixed"]),
    )
