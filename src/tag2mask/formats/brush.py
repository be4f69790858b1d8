"""Label Studio's run lengths of brush labels: a bit stream of the bytes of an RGBA image.

===================== ======================================================================================
32 bits               number of values, 4 · H · W
5 bits                bits per value, minus one
four times 4 bits     the widths in bits that a length may have, minus one
then, block by block  1 bit: one value repeated, or separate values; 2 bits: which width; the length minus one; value(s)
===================== ======================================================================================

Numbers are big-endian; the last byte is padded with zeros. A pixel is covered by its fourth value, the alpha.

Source: the decoder of the package rle-pack of thi.ng/umbrella, which Label Studio uses.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tag2mask.errors import Tag2maskError

_WIDTHS = (3, 4, 8, 16)
"""Widths of lengths, those that Label Studio writes."""

_VALUE_BITS = 8
_LEAST_ALPHA = 128
"""A pixel counts as covered from this alpha; the brush has soft edges."""


def encode(covered: npt.NDArray[np.bool_]) -> list[int]:
    """Run lengths of a mask, as the list of bytes that Label Studio stores.

    Args:
        covered: bool (H, W).

    Raises:
        Tag2maskError: it has 2^30 pixels or more, a number that the format cannot hold.
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
    """The mask of run lengths, bool (H, W).

    Args:
        rle: the bytes.
        size: (H, W) that it must have; nothing larger is allocated.

    Raises:
        Tag2maskError: the run lengths are damaged, or of another size.
    """
    height, width = size
    try:
        if not isinstance(rle, list | bytes):  # bytes(number) would allocate as many zeros
            raise TypeError
        bits = _Bits(bytes(rle))
    except (TypeError, ValueError, OverflowError) as error:
        raise Tag2maskError("its run lengths should be a list of bytes, whole numbers from 0 to 255") from error
    count, value_bits = bits.number(32), bits.number(5) + 1
    widths = [bits.number(4) + 1 for _ in range(4)]
    if count != 4 * height * width:
        raise Tag2maskError(f"its run lengths have {count:,} values, an image of {width} × {height} has 4 to a pixel")
    if value_bits != _VALUE_BITS:
        raise Tag2maskError(f"its run lengths have values of {value_bits} bits; Label Studio's have {_VALUE_BITS}")
    values, place = np.zeros(count, dtype=np.uint8), 0
    while place < count:
        repeated = bits.number(1)
        length = bits.number(widths[bits.number(2)]) + 1
        if place + length > count:
            raise Tag2maskError("its run lengths are damaged: they cover more than the image")
        values[place : place + length] = np.packbits(bits.take(_VALUE_BITS if repeated else _VALUE_BITS * length))
        place += length
    covered: npt.NDArray[np.bool_] = values.reshape(height, width, 4)[..., 3] >= _LEAST_ALPHA
    return covered


class _Bits:
    """Reads bits in order."""

    def __init__(self, raw: bytes) -> None:
        self._bits, self._place = np.unpackbits(np.frombuffer(raw, dtype=np.uint8)), 0

    def take(self, count: int) -> npt.NDArray[np.uint8]:
        """The next ``count`` bits."""
        taken = self._bits[self._place : self._place + count]
        if len(taken) < count:
            raise Tag2maskError("its run lengths are damaged: they end too early")
        self._place += count
        return taken

    def number(self, count: int) -> int:
        """The next ``count`` bits as a number."""
        return int.from_bytes(np.packbits(self.take(count)).tobytes(), "big") >> (-count % 8)
