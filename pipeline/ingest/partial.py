"""What there is of a picture whose end is missing."""

from PIL import Image, ImageFile

# Stored in one pass from top to bottom, so that what is there is the upper part of the picture.
_ROW_BY_ROW = ("JPEG", "MPO", "PNG")


def load_what_is_there(image: ImageFile.ImageFile, colour: tuple[int, int, int]) -> bool:
    """Decodes into `image`, leaving `colour` (RGB) where the data ends; whether it did end too early.

    Raises what the decoder raises if it is stored otherwise, or there is nothing to show.
    """
    several_passes = image.info.get("progressive") or image.info.get("interlace")
    if image.format not in _ROW_BY_ROW or image.mode not in ("L", "RGB", "LA", "RGBA") or several_passes:
        image.load()
        return False
    if "A" in image.mode:
        blank = Image.new(image.mode, image.size)  # transparent: the colour is going to show through
    else:
        blank = Image.new("RGB", (1, 1), colour).convert(image.mode).resize(image.size)
    image.im = blank.im.copy()  # a decoder writes into the pixels that are there
    try:
        image.load()
    except OSError as error:
        image.tile = []  # nothing is left to decode
        if "truncated" not in str(error) or image.tobytes() == blank.tobytes():
            raise
        return True
    return False
