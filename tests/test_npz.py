"""Archives of arrays: read by many threads at once, and refused where they are not what they say."""

import zipfile
from pathlib import Path

import numpy as np
import pytest

from tag2mask.core.files import DAMAGED, read_npz


def test_arrays_come_back_as_they_were_written(tmp_path: Path) -> None:
    wanted = {"a": np.arange(6, dtype=np.int32).reshape(2, 3), "b": np.float16(0.5), "c.d": np.zeros((0, 4))}
    np.savez_compressed(tmp_path / "file.npz", **wanted)
    found = read_npz(tmp_path / "file.npz")
    assert list(found) == list(wanted)
    for name, array in wanted.items():
        assert found[name].dtype == np.asarray(array).dtype and (found[name] == array).all()
    assert list(read_npz(tmp_path / "file.npz", ("b",))) == ["b"]


def _npy(header: str) -> bytes:
    text = header.ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no array",
        _npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,)}"),
        _npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}") + b"\x80\x04N.",
        _npy("__import__('os').abort()"),
    ],
)
def test_what_is_no_array_is_refused(content: bytes, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "file.npz", "w") as archive:
        archive.writestr("a.npy", content)
    with pytest.raises(DAMAGED):
        read_npz(tmp_path / "file.npz")


def test_too_much_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tag2mask.core.files.MOST_BYTES", 1 << 20)
    np.savez_compressed(tmp_path / "file.npz", a=np.zeros(600_000, dtype=np.uint8), b=np.zeros(600_000, dtype=np.uint8))
    assert (tmp_path / "file.npz").stat().st_size < 5000
    with pytest.raises(ValueError, match="gibibytes"):
        read_npz(tmp_path / "file.npz")
    assert list(read_npz(tmp_path / "file.npz", ("a", "c"))) == ["a"]
