"""Images as numpy's `.npy` files, uint8 `(h, w)`, `(h, w, 1)` or `(h, w, 3)`: members of many WebDatasets."""

import io
from math import prod

import numpy as np

from pipeline.ingest.invalid import InvalidImage
from pipeline.ingest.limits import check_pixels

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def decode_npy(data: bytes, max_pixels: int) -> np.ndarray:
    """uint8 (h, w, 1 or 3), read-only; raises InvalidImage.

    Without numpy's own reader, which makes room for whatever a header claims, and would unpickle.
    """
    stream = io.BytesIO(data)
    try:
        shape, by_columns, dtype = _HEADERS[np.lib.format.read_magic(stream)](stream)
        if not all(type(side) is int and side < 1 << 31 for side in shape):
            raise ValueError("a side that is no length")
    except Exception as error:  # hostile headers make its parser raise nearly anything
        raise InvalidImage("corrupt", f"npy: {(str(error).splitlines() or ['no header'])[0][:100]}") from None
    if dtype != np.uint8 or len(shape) not in (2, 3) or shape[2:] not in ((), (1,), (3,)):
        raise InvalidImage("not_an_image", f"npy of {dtype} {shape}, not uint8 (h, w), (h, w, 1) or (h, w, 3)")
    if min(shape) < 1 or prod(shape) > len(data) - stream.tell():
        raise InvalidImage("truncated", f"npy of {shape}, more than the {len(data) - stream.tell()} bytes there are")
    check_pixels(shape[1], shape[0], max_pixels)
    values = np.frombuffer(data, np.uint8, prod(shape), stream.tell())
    pixels = values.reshape(shape, order="F" if by_columns else "C")
    return pixels if pixels.ndim == 3 else pixels[:, :, None]
