"""Label Studio's run lengths of brush labels: a stream of bits that gives the bytes of an RGBA image.

===================== ======================================================================================
32 bits               how many values follow, 4 · H · W
5 bits                bits of a value, less one
four times 4 bits     the widths that a length may have in bits, each less one
then, block by block  1 bit: one value repeated, or each its own; 2 bits: which width; the length less one; value(s)
===================== ======================================================================================

Numbers have their highest bit first; the last byte is filled up. A pixel is covered by its fourth value, the alpha.

Source: the decoder of the package rle-pack of thi.ng/umbrella, which Label Studio reads these with.
"""

import struct
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tag2mask.errors import Tag2maskError

_WIDTHS = (3, 4, 8, 16)
"""Widths of lengths that are written; those that Label Studio writes itself."""

_VALUE_BITS = 8
_LEAST_ALPHA = 128
"""From where on a pixel counts as covered; the brush has soft edges."""


def encode(covered: npt.NDArray[np.bool_]) -> list[int]:
    """Run lengths of a mask, as the list of bytes that Label Studio keeps.

    Args:
        covered: bool (H, W).

    Raises:
        Tag2maskError: it has 2^30 pixels or more, whose number does not fit.
    """
    flat = covered.ravel()
    if 4 * flat.size >= 1 << 32:
        raise Tag2maskError(f"a mask of {flat.size:,} pixels is too large for Label Studio's run lengths")
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    lengths = 4 * np.diff(np.append(starts, flat.size))
    words = [f"{4 * flat.size:032b}{_VALUE_BITS - 1:05b}", *(f"{width - 1:04b}" for width in _WIDTHS)]
    for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        value, left = f"{255 * flat[start]:08b}", length
        while left:
            part = min(left, 1 << _WIDTHS[-1])
            which = next(i for i, width in enumerate(_WIDTHS) if part <= 1 << width)
            words.append(f"1{which:02b}{part - 1:0{_WIDTHS[which]}b}{value}")
            left -= part
    bits = "".join(words)
    bits += "0" * (-len(bits) % 8)
    return list(int(bits, 2).to_bytes(len(bits) // 8, "big"))


def decode(rle: Sequence[int], size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """The mask that run lengths cover, bool (H, W).

    Args:
        rle: the bytes.
        size: (H, W) that it must have; nothing larger is ever made.

    Raises:
        Tag2maskError: the run lengths are damaged, or of another size.
    """
    height, width = size
    try:
        if not isinstance(rle, list | bytes):  # a number would be taken for how many bytes to make
            raise TypeError
        raw = bytes(rle)
    except (TypeError, ValueError, OverflowError) as error:
        raise Tag2maskError("its run lengths should be a list of bytes, whole numbers from 0 to 255") from error
    bits = _Bits(raw)
    count, value_bits = bits.take(32), bits.take(5) + 1
    widths = [bits.take(4) + 1 for _ in range(4)]
    if count != 4 * height * width:
        raise Tag2maskError(f"its run lengths have {count:,} values, an image of {width} × {height} has 4 to a pixel")
    if value_bits != _VALUE_BITS:
        raise Tag2maskError(f"its run lengths have values of {value_bits} bits; Label Studio's have {_VALUE_BITS}")
    values, place = np.zeros(count, dtype=np.uint8), 0
    while place < count:
        repeated = bits.take(1)
        length = bits.take(widths[bits.take(2)]) + 1
        if place + length > count:
            raise Tag2maskError("its run lengths are damaged: they cover more than the image")
        values[place : place + length] = bits.take(_VALUE_BITS) if repeated else bits.take_bytes(length)
        place += length
    covered: npt.NDArray[np.bool_] = values.reshape(height, width, 4)[..., 3] >= _LEAST_ALPHA
    return covered


class _Bits:
    """Numbers out of a stream of bits."""

    def __init__(self, raw: bytes) -> None:
        """Begin at the first bit."""
        self._raw, self._place, self._end = raw + bytes(8), 0, 8 * len(raw)  # zeros, to look at 8 bytes anywhere

    def take(self, count: int) -> int:
        """The next number of ``count`` bits, at most 32.

        Raises:
            Tag2maskError: so many are not left.
        """
        first, shift = divmod(self._advance(count), 8)
        (window,) = struct.unpack_from(">Q", self._raw, first)
        return int(window >> (64 - shift - count)) & ((1 << count) - 1)

    def take_bytes(self, count: int) -> npt.NDArray[np.uint8]:
        """The next ``count`` numbers of 8 bits.

        Raises:
            Tag2maskError: so many are not left.
        """
        first, shift = divmod(self._advance(8 * count), 8)
        pairs = np.frombuffer(self._raw, np.uint8, count + 1, first).astype(np.uint16)
        return (((pairs[:-1] << 8 | pairs[1:]) >> (8 - shift)) & 255).astype(np.uint8)

    def _advance(self, count: int) -> int:
        before, self._place = self._place, self._place + count
        if self._place > self._end:
            raise Tag2maskError("its run lengths are damaged: they end too early")
        return before
