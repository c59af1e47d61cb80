"""One picture: any image file or pixels in, upright RGB uint8 [image, image, 3] out. Pillow is imported here."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from signatures.errors import CapabilityError, InputError
from signatures.files import open_regular

if TYPE_CHECKING:
    from PIL.Image import Image

# JPEG covers MPO, which some phones write; WebP comes last because it makes Pillow import all its plugins.
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP")
_ORIENTATION_TAG = 0x0112
# EXIF orientation → the transposition that undoes it, by Pillow's names.
_UPRIGHT = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}


def require_pillow() -> None:
    """Raise CapabilityError, saying how to install it, where Pillow is missing."""
    try:
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise CapabilityError(
            "Decoding and resizing images needs Pillow, which is not installed. Install it (pip install pillow; "
            "Termux: pkg install python-pillow; Debian, Raspberry Pi OS: apt install python3-pil), "
            "or pack the dataset at the network's size on the host: python -m converter pack."
        ) from error


def decode_picture(path: Path, image: int) -> NDArray[np.uint8]:
    """Decode an image file: centre square, `image` pixels a side, upright by its EXIF, uint8 [image, image, 3] RGB.

    A large JPEG is decoded at a fraction of its size (never below twice `image`), so a 12-megapixel photo
    takes a few MB. Alpha is dropped, as image loaders of training frameworks do.
    Raises InputError naming the file where it is missing, damaged, truncated or larger than Pillow's limit
    against decompression bombs (89 million pixels); CapabilityError without Pillow.
    """
    require_pillow()
    import PIL.Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on odd metadata; the pixels are what we need
            warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
            with open_regular(path) as file, PIL.Image.open(file, formats=_FORMATS) as picture:
                picture.draft(None, (2 * image, 2 * image))
                fitted = _fit(picture, image)
                upright = _UPRIGHT.get(_orientation(picture))
        if upright:
            fitted = fitted.transpose(PIL.Image.Transpose[upright])
        return np.asarray(fitted)
    except (PIL.Image.DecompressionBombWarning, PIL.Image.DecompressionBombError) as error:
        raise InputError(f"{path}: too many pixels ({error}). Scale it down, or remove it.") from error
    except Exception as error:  # damaged files make decoders raise nearly anything
        raise InputError(
            f"{path}: cannot be decoded ({str(error) or type(error).__name__}). Replace the file, or remove it."
        ) from error


def resize_pixels(pixels: NDArray[np.uint8], image: int) -> NDArray[np.uint8]:
    """Bring uint8 [H, W, 3] to its centre square at uint8 [image, image, 3], as `decode_picture` does.

    Raises CapabilityError without Pillow.
    """
    require_pillow()
    import PIL.Image

    return np.asarray(_fit(PIL.Image.fromarray(np.ascontiguousarray(pixels)), image))


def _fit(picture: Image, image: int) -> Image:
    """Centre square in RGB, bicubic with antialiasing; pixels are left as they are where the size fits."""
    import PIL.Image

    width, height = picture.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    # Cropping first equals resizing the shorter side first, but a panorama never gets larger on the way.
    square = _rgb(picture.crop((left, top, left + side, top + side)))
    return square if side == image else square.resize((image, image), PIL.Image.Resampling.BICUBIC)


def _rgb(picture: Image) -> Image:
    import PIL.Image

    if picture.mode.startswith("I"):  # 16-bit greyscale, which convert() would clip to white
        high = np.asarray(picture).astype(np.int32) >> 8
        picture = PIL.Image.fromarray(high.clip(0, 255).astype(np.uint8))
    return picture.convert("RGB")


def _orientation(picture: Image) -> int:
    """EXIF orientation, 1 (upright) where there is none or the metadata is damaged."""
    try:
        return int(picture.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # a picture with broken metadata still is a picture
        return 1
