"""The reader of CLIP-ES's pickled files: what it accepts, and what it refuses before anything is called."""

import io
import os
import pickle
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hostile_case import bounded
from tag2mask.cams.clip.npy_files import NpyCams, NpyError, read_npy_cams, write_npy_cams

SIZE = (6, 8)


def maps(classes: int = 2) -> np.ndarray:
    """Random maps at full size."""
    return np.random.default_rng(0).random((classes, *SIZE)).astype(np.float16)


def save(path: Path, value: Any) -> Path:
    """As CLIP-ES saves."""
    np.save(path, value, allow_pickle=True)
    return path


def raw(path: Path, payload: bytes) -> Path:
    """A file of an object array with any pickle in it."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
    path.write_bytes(file.getvalue() + payload)
    return path


class Calls:
    """A pickle that would write a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.target}",)


def test_reads_what_clip_es_writes(tmp_path: Path) -> None:
    full = maps()
    path = save(tmp_path / "a.npy", {"keys": np.array([7, 14]), "attn_highres": full})
    found = read_npy_cams(path, 20, SIZE)
    assert found.classes.tolist() == [7, 14] and found.grid is None
    np.testing.assert_array_equal(found.full, full)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_reads_every_protocol(tmp_path: Path, protocol: int) -> None:
    value = {"keys": np.array([3]), "attn_highres": maps(1), "threshold": 0.4, "count": np.float32(2)}
    wrapped = np.empty((), dtype=object)
    wrapped[()] = value
    for number, content in enumerate((value, wrapped)):
        path = raw(tmp_path / f"{number}.npy", pickle.dumps(content, protocol=protocol))
        np.testing.assert_array_equal(read_npy_cams(path, 20, SIZE).full, value["attn_highres"])


def test_names_of_old_and_new_numpy_are_known(tmp_path: Path) -> None:
    data = pickle.dumps({"keys": np.array([3]), "attn_highres": maps(1)}, protocol=2)
    new = data.replace(b"numpy.core.multiarray", b"numpy._core.multiarray")
    old = data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert old != new
    for name, content in (("old", old), ("new", new)):
        assert read_npy_cams(raw(tmp_path / f"{name}.npy", content), 20, SIZE).classes.tolist() == [3]


def test_our_own_files_come_back_exactly(tmp_path: Path) -> None:
    grid = np.random.default_rng(1).random((2, 3, 4)).astype(np.float16)
    cams = NpyCams(np.array([0, 19]), maps(), grid)
    write_npy_cams(tmp_path / "deep" / "a.npy", cams)
    found = read_npy_cams(tmp_path / "deep" / "a.npy", 20, SIZE)
    assert found.grid is not None
    np.testing.assert_array_equal(found.grid, grid)
    np.testing.assert_array_equal(found.full, cams.full)
    assert np.load(tmp_path / "deep" / "a.npy", allow_pickle=True).item()["keys"].tolist() == [0, 19]


def test_a_pickle_that_calls_is_refused_and_not_called(tmp_path: Path) -> None:
    target = tmp_path / "called"
    for content in (Calls(target), {"keys": Calls(target), "attn_highres": maps(1)}):
        path = save(tmp_path / "evil.npy", content)
        with pytest.raises(NpyError, match=r"evil\.npy is refused: it tries to use (posix|nt)\.system"):
            read_npy_cams(path, 20, SIZE)
    assert not target.exists()


@pytest.mark.parametrize(
    "payload",
    [
        b"cnumpy\nndarray\n(I1000000000000\ntR.",  # an array of a terabyte
        b"cnumpy\ndtype\n(S'V2000000000'\ntR.",
        b"cnumpy._core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I9\ntS'b'\ntR.",
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"c_codecs\nencode\n(S'x'\nS'rot13'\ntR.",
        b"Pelsewhere\n.",
        b"cnumpy\nndarray\n)\x81.",
        b"}r\xff\xff\xff\x7f.",  # a memo of gigabytes
        b"})" + b"\x85" * 100_000 + b"Ns.",  # a key nested so deep that hashing it would crash
        b")q\0" + b"h\0h\0\x86q\0" * 60 + b"}h\0Ns.",  # a key of 2^60 parts
        b")q\0" + b"h\0h\0\x86q\0" * 60 + b"\x8f(h\0\x90.",  # the same in a set
        b"}(" + b"2" * 40 + b"u.",
        b"\x80\x05\x96" + (2**36).to_bytes(8, "little") + b"x.",  # bytes of 64 GiB
        b"\x80\x05\x96" + (2**32).to_bytes(8, "little") + b"x.",  # bytes of 4 GiB, which could be allocated
        b"cnumpy\ndtype\n}S'__call__'\nNsb.",  # another way to do what a name stands for
        b"cnumpy\ndtype\n(S'i8'\ntR(I4\nS'>'\nNNNI-1\nI-1\nI63\nNtb.",  # flags of objects on numbers
    ],
)
def test_unusual_arguments_are_refused(tmp_path: Path, payload: bytes) -> None:
    with pytest.raises(NpyError, match=r"x\.npy (is refused|is truncated or damaged|holds a|is not a file of CLIP-ES)"):
        read_npy_cams(raw(tmp_path / "x.npy", payload), 20, SIZE)


def test_a_list_too_short_for_its_array_does_not_crash(tmp_path: Path) -> None:
    """NumPy itself reads past the end of such a list."""
    dtype = b"cnumpy\ndtype\n(S'O8'\ntR"
    array = b"cnumpy._core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I2\nt" + dtype + b"I00\n(ltb"
    for number, payload in enumerate((array + b".", b"(dS'keys'\n" + array + b"sS'attn_highres'\nI1\ns.")):
        with pytest.raises(
            NpyError, match=r"is refused: it tries to use an array (of objects|that is not made of numbers)"
        ):
            read_npy_cams(raw(tmp_path / f"{number}.npy", payload), 20, SIZE)


def test_bytes_are_not_copied_by_what_names_them_again(tmp_path: Path) -> None:
    """A small file that describes 500 arrays of one megabyte each makes none of them."""
    dtype = b"cnumpy\ndtype\n(S'u1'\ntRp9\n"
    one = b"cnumpy._core.numeric\n_frombuffer\n(g0\ng9\n(I1000000\ntS'C'\ntR"
    content = b"(lB" + (1_000_000).to_bytes(4, "little") + bytes(1_000_000) + b"p0\na" + dtype + b"a"
    path = raw(tmp_path / "a.npy", content + (one + b"a") * 500 + b".")
    with pytest.raises(NpyError, match="it should hold a dictionary"):
        read_npy_cams(path, 20, SIZE)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 3_000_000


@pytest.mark.parametrize("protocol", [2, 4])
def test_byte_order_and_memory_order_are_heeded(tmp_path: Path, protocol: int) -> None:
    full = maps(2).astype(">f4")
    value = {"keys": np.array([3, 1], dtype=">i8"), "attn_highres": np.asfortranarray(full), "name": "2007_000032"}
    found = read_npy_cams(raw(tmp_path / "a.npy", pickle.dumps(value, protocol=protocol)), 20, SIZE)
    assert found.classes.tolist() == [3, 1]
    np.testing.assert_array_equal(found.full, full.astype(np.float16))


@pytest.mark.parametrize(
    "header", ["{'descr': '|O'", "-" * 9000, "{'descr': ('O',), 'shape': (), 'fortran_order': False}"]
)
def test_a_broken_header_is_refused(tmp_path: Path, header: str) -> None:
    text = header.encode()
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + b"\x80\x04N.")
    with pytest.raises(NpyError, match=r"not a \.npy file, or is damaged"):
        read_npy_cams(tmp_path / "a.npy", 20, SIZE)


@pytest.mark.parametrize("kept", [0, 5, 40, 0.5, 0.99])
def test_a_truncated_file_is_refused(tmp_path: Path, kept: float) -> None:
    path = save(tmp_path / "a.npy", {"keys": np.array([3]), "attn_highres": maps(1)})
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data)) if isinstance(kept, float) else kept])
    with pytest.raises(NpyError, match=r"a\.npy is (not a \.npy file, or is damaged|truncated or damaged)"):
        read_npy_cams(path, 20, SIZE)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"keys": np.array([3])}, "it lacks attn_highres, and holds 'keys'"),
        ({"high_res": maps(1)}, "it lacks keys, attn_highres"),
        (
            {"keys": np.array([3]), "attn_highres": maps(2)},
            r"`attn_highres` should be floating point of the shape \(1, 6, 8\)",
        ),
        ({"keys": np.array([3]), "attn_highres": maps(1)[:, :5]}, r"it is float16 \(1, 5, 8\)"),
        ({"keys": np.array([3]), "attn_highres": np.ones((1, *SIZE), dtype=np.int64)}, "it is int64"),
        ({"keys": np.array([3.0]), "attn_highres": maps(1)}, "one row of whole numbers"),
        ({"keys": np.array([20]), "attn_highres": maps(1)}, "different numbers from 0 to 19"),
        ({"keys": np.array([-1]), "attn_highres": maps(1)}, "different numbers from 0 to 19"),
        ({"keys": np.array([3, 3]), "attn_highres": maps(2)}, "different numbers from 0 to 19"),
        ({"keys": np.array([3]), "attn_highres": maps(1) * np.nan}, "holds NaN or infinity"),
        ({"keys": np.array([3]), "attn_highres": maps(1) + 3}, r"should lie in \[0, 1\]"),
        ({"keys": np.array([3]), "attn_highres": maps(1), "grid": maps(1)[0]}, "`grid` should be floating point"),
        ({"keys": "cat", "attn_highres": maps(1)}, "`keys` should be an array of numbers"),
        ({"keys": [[1], [2, 3]], "attn_highres": maps(1)}, "`keys` should be an array of numbers"),
        ({"one": 2}, "it lacks keys, attn_highres, and holds 'one'"),
        ([1, 2], "it should hold a dictionary"),
        (maps(), "it should hold a dictionary"),
    ],
)
def test_wrong_contents_are_refused(tmp_path: Path, value: Any, message: str) -> None:
    path = save(tmp_path / "a.npy", np.array(value, dtype=object) if isinstance(value, dict) else value)
    with pytest.raises(NpyError, match=message) as caught:
        read_npy_cams(path, 20, SIZE)
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(NpyError, match="does not exist"):
        read_npy_cams(tmp_path / "none.npy", 20, SIZE)


def refused(path: Path, payload: bytes, message: str) -> None:
    """Assert that a pickle gives a line, in little time and memory."""
    with bounded(), pytest.raises(NpyError, match=message):
        read_npy_cams(raw(path, payload), 20, SIZE)


def test_other_and_too_many_instructions_are_refused(tmp_path: Path) -> None:
    refused(tmp_path / "x.npy", b"N" * 20_000 + b".", "is refused: it tries to use more than 10000 instructions")
    huge = b"\x80\x05\x96" + (2**36).to_bytes(8, "little") + b"x."
    refused(tmp_path / "x.npy", huge, "truncated or damaged")
    for payload, name in (
        (b"N2.", "DUP"),
        (b"\x8f.", "EMPTY_SET"),
        (b"\x82\x01.", "EXT1"),
        (b"Px\n.", "PERSID"),
        (b"cnumpy\nndarray\n)\x81.", "NEWOBJ"),
    ):
        refused(tmp_path / "x.npy", payload, f"the instruction {name}")


@pytest.mark.parametrize("payload", [b"}%sNs.", b"}(%sNu.", b"(%sNd."])
def test_keys_that_take_forever_to_hash_are_refused(tmp_path: Path, payload: bytes) -> None:
    nested = b")" + b"".join(b"q%ch%c\x86" % (number, number) for number in range(200))  # each holds the last twice
    refused(tmp_path / "x.npy", payload % nested, "a dictionary whose keys are not text")


def test_text_that_is_encoded_again_and_again_is_kept_once(tmp_path: Path) -> None:
    text = b"X" + (1_040_000).to_bytes(4, "little") + b"a" * 1_040_000
    start = b"(c_codecs\nencode\nq\x00(" + text + b"X\x06\x00\x00\x00latin1tq\x01"
    refused(tmp_path / "x.npy", start + b"h\x00h\x01R" * 3_300 + b"t.", "it should hold a dictionary")


def test_a_file_larger_than_any_maps_is_not_read(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npy", {"keys": np.array([3]), "attn_highres": maps(1)})
    with path.open("r+b") as file:
        file.truncate(1 << 36)
    with bounded(), pytest.raises(NpyError, match="has 68719476736 bytes, maps of this image take at most"):
        read_npy_cams(path, 20, SIZE)


def test_long_names_are_cut(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npy", np.array({"n" * 100_000 + str(each): 1 for each in range(9)}, dtype=object))
    with pytest.raises(NpyError, match="and 4 more") as caught:
        read_npy_cams(path, 20, SIZE)
    assert len(str(caught.value)) < 1000
