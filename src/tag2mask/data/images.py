"""Reading images and masks, and writing masks."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tag2mask.core.errors import first_five
from tag2mask.core.files import write_bytes
from tag2mask.core.profile import timed
from tag2mask.core.provenance import PNG_KEY, PREDICTION_KEY
from tag2mask.data.decoding import decode, opened, upright_size
from tag2mask.data.pixel_formats import Intensity, read_rgb
from tag2mask.data.problems import ImageError as ImageError
from tag2mask.data.problems import MaskError as MaskError
from tag2mask.data.problems import ProblemKind
from tag2mask.data.settings import PIXEL_LIMIT as PIXEL_LIMIT

IGNORED = 255  # the ignore index of masks

MASK_FAULTS: dict[ProblemKind, ProblemKind] = {"missing-image": "missing-mask", "not-an-image": "mask-format"}


def read_image(
    path: Path, *, pixel_limit: int = PIXEL_LIMIT, intensity: Intensity | None = None
) -> npt.NDArray[np.uint8]:
    """Read an image as RGB, uint8 (H, W, 3), upright by EXIF; `pixel_formats.to_rgb` documents the conversion.

    Args:
        path: the file.
        pixel_limit: an image with more pixels is refused before it is decoded.
        intensity: (LOW, HIGH), the values that become black and white in images of more than 8 bits.

    Raises:
        ImageError: the file is missing, empty, not an image, damaged, too large, or has pixels of an unknown kind.
    """
    with opened(path, pixel_limit=pixel_limit) as image:
        return read_rgb(path, image, intensity)


def read_small(
    path: Path, long_side: int, *, pixel_limit: int = PIXEL_LIMIT, intensity: Intensity | None = None
) -> npt.NDArray[np.uint8]:
    """Read an image as `read_image` does, reduced to ``long_side``; a large JPEG is decoded at a smaller size."""
    with opened(path, pixel_limit=pixel_limit) as image:
        image.draft(None, (long_side, long_side))
        return reduced(read_rgb(path, image, intensity), long_side)


def image_size(path: Path, *, pixel_limit: int = PIXEL_LIMIT) -> tuple[int, int]:
    """(H, W) of the array that `read_image` returns, from the header alone (a PNG is decoded).

    Raises:
        ImageError: the file is missing, empty, not an image, or too large.
    """
    with opened(path, pixel_limit=pixel_limit) as image:
        return upright_size(path, image)


def read_mask(
    path: Path,
    *,
    size: tuple[int, int] | None = None,
    classes: int | None = None,
    pixel_limit: int = PIXEL_LIMIT,
    any_kind: bool = False,
) -> npt.NDArray[np.uint8]:
    """Read a mask: a PNG with a palette of up to 8 bits, or 8-bit grey, whose values are class ids.

    Args:
        path: the file.
        size: the required (H, W), after EXIF orientation; None for any.
        classes: C; values must be 0..C or 255. None for any.
        pixel_limit: a mask with more pixels is refused before it is decoded.
        any_kind: also read black and white (0 and 255), and colour with equal channels: values to be mapped.

    Returns:
        uint8 (H, W): 0 background, 1..C the classes, 255 ignored.

    Raises:
        MaskError: the file is missing or damaged, or has another format, another size or other values.
    """
    try:
        with opened(path, pixel_limit=pixel_limit, formats=("PNG",)) as image:
            # White in a 1-bit image is not class 1.
            if image.mode not in ("P", "L") and not any_kind:
                message = f"its pixels are of the kind {image.mode}, which holds no class ids"
                rule = "a mask is a PNG with a palette, or 8-bit grey"
                remedy = "for black and white, --data.mask_values 255=1 says what white is"
                raise MaskError.about(path, "mask-format", f"{message}; {rule}; {remedy}")
            mask = _grey(path, decode(path, image)) if any_kind else np.array(decode(path, image), dtype=np.uint8)
    except MaskError:
        raise
    except ImageError as reason:
        raise MaskError.about(path, MASK_FAULTS.get(reason.kind, "unreadable-mask"), reason.reason) from reason
    if size is not None and mask.shape != tuple(size):
        height, width = mask.shape
        turned = " (it lies on its side: was it drawn before the image was turned upright?)"
        message = f"the mask is {width} × {height} pixels, its image {size[1]} × {size[0]}; draw it at that size"
        raise MaskError.about(path, "mask-size", message + turned * ((width, height) == tuple(size)))
    if classes is not None and (wrong := unknown_values(mask, classes)):
        raise MaskError.about(path, "mask-values", wrong)
    return mask


def _grey(path: Path, image: Image.Image) -> npt.NDArray[np.uint8]:
    if image.mode in ("P", "L", "1"):
        return np.array(image if image.mode != "1" else image.convert("L"), dtype=np.uint8)
    if image.mode in ("LA", "RGB", "RGBA"):
        channels = np.array(image.convert("RGB"))
        if (channels == channels[..., :1]).all():
            return np.ascontiguousarray(channels[..., 0])
    message = f"its pixels are of the kind {image.mode}, not 8-bit grey; save the mask as 8-bit grey, or with a palette"
    raise MaskError.about(path, "mask-format", f"{message} of class ids")


def unknown_values(mask: npt.NDArray[np.uint8], classes: int) -> str:
    """A sentence with the values of a mask that are not 0..``classes`` or 255; empty if there are none."""
    present = np.flatnonzero(np.bincount(mask.ravel(), minlength=256))
    wrong = [int(value) for value in present if classes < value != IGNORED]
    rule = f"0 is background, 1..{classes} the classes, {IGNORED} ignored"
    return f"the values {first_five(wrong)} are not classes; {rule}" if wrong else ""


def reduced(image: npt.NDArray[np.uint8], long_side: int | None) -> npt.NDArray[np.uint8]:
    """An image, uint8 (H, W, 3), reduced to ``long_side`` pixels, bicubic; itself if it is not longer."""
    size = image.shape[0], image.shape[1]
    height, width = smaller = reduced_size(size, long_side)
    if smaller == size:
        return image
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


def reduced_size(size: tuple[int, int], long_side: int | None) -> tuple[int, int]:
    """(H, W) reduced to ``long_side`` with the same proportions; itself if it is not longer."""
    longer = max(size)
    if long_side is None or longer <= long_side:
        return size
    height, width = (max(1, round(side * long_side / longer)) for side in size)
    return height, width


@timed("writing")
def write_mask(path: Path, mask: npt.NDArray[np.uint8], *, made_from: str = "", prediction: str = "") -> None:
    """Write class ids as an 8-bit PNG with the palette of PASCAL VOC, atomically.

    Args:
        path: its folder is created.
        mask: uint8 (H, W).
        made_from: recorded in the file, for `mask_origin`.
        prediction: the network's prediction for the image, recorded in the file; ASCII.

    Raises:
        MaskError: ``mask`` has another type or shape.
    """
    if mask.dtype != np.uint8 or mask.ndim != 2 or 0 in mask.shape:
        message = f"a mask should be uint8 (H, W), this one is {mask.dtype} {mask.shape}"
        raise MaskError.about(path, "mask-format", message)
    image = Image.fromarray(mask)
    image.putpalette(palette().tobytes())
    write_bytes(path, _png(image, {PNG_KEY: made_from, PREDICTION_KEY: prediction}))


@timed("writing")
def write_fractions(path: Path, fractions: npt.NDArray[np.floating]) -> None:
    """Write numbers in [0, 1], (H, W), as an 8-bit grey PNG, 255 = 1, atomically; its folder is created."""
    write_bytes(path, _png(Image.fromarray(np.rint(255 * fractions).astype(np.uint8)), {}))


def write_jpeg(path: Path, image: npt.NDArray[np.uint8], quality: int) -> None:
    """Write RGB pixels, (H, W, 3), as JPEG, atomically; its folder is created."""
    content = io.BytesIO()  # into a file, Pillow takes a write that a full disk cuts off for a whole one
    Image.fromarray(image).save(content, format="JPEG", quality=quality)
    write_bytes(path, content.getvalue())


def palette() -> npt.NDArray[np.uint8]:
    """The colours of PASCAL VOC, uint8 (256, 3).

    The bits of the class id, from the lowest, go to red, green and blue in turn and fill each colour from its highest
    bit. Source: the colour map of the VOC development kit.
    """
    ids = np.arange(256)
    colours = np.zeros((256, 3), dtype=np.uint8)
    for level in range(8):
        for channel in range(3):
            place = 3 * level + channel
            colours[:, channel] |= (((ids >> place) & 1) << (7 - level)).astype(np.uint8)
    return colours


def class_colour(class_id: int) -> str:
    """The colour of a class, of background (0) or of ignored pixels (255) everywhere: of `palette`, as ``#rrggbb``."""
    return css(palette()[class_id])


def css(colour: Sequence[int] | npt.NDArray[np.uint8]) -> str:
    """``#rrggbb``."""
    return "#{:02x}{:02x}{:02x}".format(*map(int, colour))


def _png(image: Image.Image, texts: Mapping[str, str]) -> bytes:
    content, text = io.BytesIO(), PngInfo()
    for keyword, value in texts.items():
        if value:
            text.add_text(keyword, value)
    image.save(content, format="PNG", pnginfo=text)
    return content.getvalue()
