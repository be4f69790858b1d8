"""Files by photograph in tars: written, found again, torn, lost, deleted, and as others read them."""

import io
import multiprocessing
import multiprocessing.connection
import os
import pickle
import sqlite3
import tarfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tag2mask.errors import Tag2maskError, UsageError
from tag2mask.files import is_newer
from tag2mask.outputs import OutputSettings, RunOutputs, TarFolder, file_names, found_folder, write_bytes
from tag2mask.outputs.index import Index
from tag2mask.outputs.members import file_name, member_name, packed

NAMES = [
    "a.png",
    "trip/no. 7.png",
    "trip.x/v1.2.final.png",
    "100%2E/%.png",
    "__x__/a__.png",
    "日本/ä ö.png",
    "b" * 150 + ".png",
    "caf\udce9/日\udcff\udcfe.png",
]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[TarFolder]:
    folder = TarFolder(tmp_path / "masks", OutputSettings(photographs_per_tar=3))
    yield folder
    folder.close(send=False)


def again(folder: TarFolder, **changes: object) -> TarFolder:
    """The same folder as the next command finds it."""
    folder.close(send=False)
    return TarFolder(folder.path, OutputSettings(**{"photographs_per_tar": 3, **changes}))  # type: ignore[arg-type]


def content(name: str, word: bytes = b"of ") -> bytes:
    return word + os.fsencode(name)


def write(folder: TarFolder, names: list[str], word: bytes = b"of ") -> None:
    for name in names:
        write_bytes(folder / name, content(name, word))


def contents(folder: TarFolder) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in file_names(folder, ".png")}


def tars(folder: TarFolder) -> list[Path]:
    return sorted(folder.tars.glob("*.tar"))


def test_files_are_found_as_they_were_written_now_and_by_the_next_command(folder: TarFolder) -> None:
    write(folder, NAMES)
    expected = {name: content(name) for name in NAMES}
    assert contents(folder) == expected
    assert contents(again(folder)) == expected
    assert [path.name for path in tars(folder)] == [f"1-of-1-00000{number}.tar" for number in range(3)]
    assert not (folder / "c.png").is_file() and not list(file_names(folder, ".npz"))
    with pytest.raises(FileNotFoundError, match=r"masks/c\.png"):
        (folder / "c.png").read_bytes()
    assert str(folder / "a.png").endswith("masks/tars/1-of-1-000000.tar: a.png")


@pytest.mark.extra
def test_tars_are_those_of_webdataset(folder: TarFolder) -> None:
    webdataset = pytest.importorskip("webdataset")
    write(folder, NAMES)
    written = [*NAMES, "a.png", "a.png", "x.png", "a.png", "a.png"]
    for name in ("a.png", "a.png", "x.png", "a.png"):  # once more in a row is an error to WebDataset in one tar
        write(folder, [name])
        (folder / name).unlink()
    folder = again(folder)
    write(folder, ["a.png"])
    folder.close(send=False)
    urls = [str(path) for path in tars(folder)]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False))
    assert [(file_name(sample["__key__"]), sample["png"]) for sample in samples] == [
        (name.removesuffix(".png"), content(name)) for name in written
    ]


def test_a_tar_is_whole_to_other_tools_and_takes_more_later(folder: TarFolder) -> None:
    write(folder, ["a.png"])
    folder.close(send=False)
    assert tars(folder)[0].read_bytes().endswith(bytes(1024))
    write(again(folder), ["b.png"])
    with tarfile.open(tars(folder)[0]) as archive:
        assert archive.getnames() == ["a.png", "b.png"]


@given(
    st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1),
    st.text("a./%_", max_size=5),
)
def test_names_can_be_told_from_members_and_have_one_dot_where_webdataset_looks(stem: str, where: str) -> None:
    name = f"{where}/{stem}.png" if where else f"{stem}.png"
    member = member_name(name)
    assert file_name(member) == name
    assert member.rpartition("/")[2].count(".") == 1 and not member.startswith("__")


def test_times_are_those_of_writing_to_the_nanosecond_also_without_the_index(
    folder: TarFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1_700_000_000_123_456_789
    monkeypatch.setattr(time, "time_ns", lambda: now)
    write(folder, ["a.png"])
    monkeypatch.setattr(time, "time_ns", lambda: now + 1)
    write(folder, ["b.png"])
    for each in (folder, without_index(folder)):
        stamps = [(each / name).stat() for name in ("a.png", "b.png")]
        assert [(stamp.st_size, stamp.st_mtime_ns) for stamp in stamps] == [(8, now), (8, now + 1)]
        assert is_newer(each / "b.png", each / "a.png") and not is_newer(each / "a.png", each / "b.png")
    with tarfile.open(tars(folder)[0]) as archive:
        assert {int(info.mtime) for info in archive} == {now // 10**9}


def without_index(folder: TarFolder) -> TarFolder:
    found = again(folder)
    (folder.tars / "1-of-1.sqlite").unlink()
    return found


def damaged_index(folder: TarFolder) -> TarFolder:
    found = again(folder)
    (folder.tars / "1-of-1.sqlite").write_bytes(b"no database at all" * 100)
    return found


def index_behind(folder: TarFolder) -> TarFolder:
    """As a kill leaves it between the two writes."""
    found = again(folder)
    with sqlite3.connect(folder.tars / "1-of-1.sqlite") as connection:
        connection.execute("DELETE FROM members WHERE tar = 1 AND offset >= 1024")
        connection.execute("UPDATE tars SET end = 1024, bytes = 1024 WHERE number = 1")
    return found


@pytest.mark.parametrize("lose", [without_index, damaged_index, index_behind])
def test_the_index_is_made_again_from_the_tars(folder: TarFolder, lose: Callable[[TarFolder], TarFolder]) -> None:
    write(folder, ["a.png", "b.png", "c.png", "d.png", "b.png", "e.png"], b"old ")
    write(folder, ["a.png", "x/y.png"], b"new ")
    (folder / "c.png").unlink()
    before = contents(folder)
    assert before["a.png"] == b"new a.png" and "c.png" not in before
    found = lose(folder)
    assert contents(found) == before
    write(found, ["f.png"])
    assert contents(again(found)) == {**before, "f.png": b"of f.png"}


@pytest.mark.parametrize("kept", [1, 511, 512, 700, 1023, 1030, 1500])
def test_a_torn_member_is_cut_off_and_only_that_one(folder: TarFolder, kept: int) -> None:
    write(folder, ["a.png", "b.png"])
    folder.close(send=False)
    path = tars(folder)[0]
    whole = path.read_bytes()[:-1024]
    raw = packed("c.png", b"c" * 900, len(whole), time.time_ns())[1]
    assert kept < len(raw)
    path.write_bytes(whole + raw[:kept])
    found = again(folder)
    assert sorted(contents(found)) == ["a.png", "b.png"]
    write(found, ["c.png"])
    assert sorted(contents(without_index(found))) == ["a.png", "b.png", "c.png"]
    assert tars(folder) == [path]


def test_what_a_kill_wrote_whole_is_kept(folder: TarFolder) -> None:
    write(folder, ["a.png"])
    folder.close(send=False)
    path = tars(folder)[0]
    whole = path.read_bytes()[:-1024]
    path.write_bytes(whole + packed("c.png", b"c", len(whole), time.time_ns())[1] + b"torn")
    assert contents(again(folder)) == {"a.png": b"of a.png", "c.png": b"c"}


def test_a_write_that_fails_leaves_the_tar_as_it_was(folder: TarFolder) -> None:
    write(folder, ["a.png"])
    series = folder._own(folder._opened())

    class Full(io.FileIO):
        """As the system does: what has room is written, and only the next byte is an error."""

        room = 100

        def write(self, raw: object) -> int:
            written = super().write(bytes(raw)[: self.room])  # type: ignore[call-overload]
            self.room -= written
            if not written:
                raise OSError(28, "No space left on device")
            return written

    assert series._open is not None
    series._open.close()
    series._open = Full(tars(folder)[0], "r+")  # type: ignore[assignment]
    with pytest.raises(OSError, match="No space"):
        write(folder, ["b.png"])
    series._open = tars(folder)[0].open("r+b", buffering=0)
    write(folder, ["c.png"])
    assert sorted(contents(without_index(folder))) == ["a.png", "c.png"]


def test_a_file_that_the_index_could_not_take_up_is_not_in_the_tar_either(
    folder: TarFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder, ["a.png"])

    def full(*_: object) -> None:
        raise Tag2maskError("the index could not be used")

    with monkeypatch.context() as patch, pytest.raises(Tag2maskError):
        patch.setattr(Index, "add", full)
        write(folder, ["b.png"])
    write(folder, ["c.png"])
    assert sorted(contents(folder)) == sorted(contents(again(folder))) == ["a.png", "c.png"]
    assert sorted(contents(without_index(folder))) == ["a.png", "c.png"]


def test_a_tar_deleted_by_hand_takes_its_files_along(folder: TarFolder) -> None:
    write(folder, NAMES)
    folder.close(send=False)
    tars(folder)[1].unlink()
    assert sorted(contents(again(folder))) == sorted(NAMES[:3] + NAMES[6:])


def test_a_file_written_twice_in_a_row_begins_another_tar(folder: TarFolder) -> None:
    write(folder, ["a.png", "b.png"])
    write(folder, ["b.png"], b"a good deal longer, over a block " * 30)
    (folder / "b.png").unlink()
    write(folder, ["b.png"], b"new ")
    write(folder, ["c.png"])
    folder.close(send=False)
    held = []
    for path in tars(folder):
        with tarfile.open(path) as archive:
            held.append(archive.getnames())
    assert held == [
        ["a.png", "b.png"],
        ["b.png", "__deleted__/b.png"],
        ["b.png", "c.png"],
    ]
    assert contents(without_index(folder))["b.png"] == b"new b.png"


def test_the_newest_of_several_writers_and_of_single_files_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = count(time.time_ns() - 10**10)  # a file system's clock may be coarser
    monkeypatch.setattr(time, "time_ns", lambda: next(ticks))
    settings = OutputSettings(photographs_per_tar=2)
    first, second = (TarFolder(tmp_path, settings, writer=f"{number}-of-2") for number in (1, 2))
    (tmp_path / "old.png").write_bytes(b"single")
    os.utime(tmp_path / "old.png", (0, 0))
    write(first, ["a.png", "b.png"], b"first ")
    first.close(send=False)
    write(second, ["a.png", "old.png"], b"second ")
    (second / "b.png").unlink()
    second.close(send=False)
    assert not (tmp_path / "old.png").exists()
    single = TarFolder(tmp_path, OutputSettings())
    assert contents(single) == {"a.png": b"second a.png", "old.png": b"second old.png"}
    write(single, ["a.png", "c.png"], b"single ")
    assert (tmp_path / "a.png").is_file() and (single / "a.png").read_bytes() == b"single a.png"
    (single / "a.png").unlink()
    single.close(send=False)
    for _ in range(2):
        assert set(contents(single)) == {"c.png", "old.png"}
        single.close(send=False)
        for path in tmp_path.rglob("*.sqlite"):
            path.unlink()
    with pytest.raises(FileNotFoundError):
        (single / "a.png").unlink()
    (single / "a.png").unlink(missing_ok=True)
    single.close(send=False)


def write_without_end(path: Path, first: int, told: "multiprocessing.connection.Connection") -> None:
    """Tell of each file that is written."""
    folder = TarFolder(path, OutputSettings(photographs_per_tar=3))
    for number in count(first):
        write(folder, [f"{number}.png"], b"x" * (number * 97 % 2000))
        told.send(number)


def test_what_was_written_before_a_kill_is_there_after_it(tmp_path: Path) -> None:
    context, done = multiprocessing.get_context("fork"), -1
    for kill in range(6):
        ours, theirs = context.Pipe(duplex=False)
        child = context.Process(target=write_without_end, args=(tmp_path, done + 1, theirs))
        child.start()
        theirs.close()
        for _ in range(3 + 2 * kill):
            done = ours.recv()
        child.kill()
        child.join()
        with suppress(EOFError):
            while True:
                done = ours.recv()
        found = TarFolder(tmp_path, OutputSettings(photographs_per_tar=3))
        expected = {f"{n}.png": b"x" * (n * 97 % 2000) + b"%d.png" % n for n in range(done + 1)}
        there = contents(found)
        there.pop(f"{done + 1}.png", None)  # written, but it was killed before it could tell
        assert there == expected
        found.close(send=False)


def read_one(folder: TarFolder, name: str) -> bytes:
    return (folder / name).read_bytes()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_threads_and_other_processes_read(folder: TarFolder, method: str) -> None:
    names = [f"{number}.png" for number in range(20)]
    write(folder, names)
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda name: read_one(folder, name), names)) == [b"of " + n.encode() for n in names]
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.apply(read_one, (folder, "7.png")) == b"of 7.png"
    write(folder, ["20.png"])  # no child has taken anything away
    assert contents(pickle.loads(pickle.dumps(folder))) == {f"{n}.png": b"of %d.png" % n for n in range(21)}


def test_a_reader_sees_what_a_living_writer_appends(folder: TarFolder) -> None:
    write(folder, ["a.png"])
    reader = TarFolder(folder.path, OutputSettings())
    assert contents(reader) == {"a.png": b"of a.png"}
    write(folder, ["b.png", "c.png", "d.png"])
    assert len(contents(reader)) == 4
    reader.close(send=False)


def test_who_reads_leaves_the_index_alone(folder: TarFolder) -> None:
    write(folder, ["a.png", "b.png", "c.png", "d.png", "e.png"])
    found, index = index_behind(folder), folder.tars / "1-of-1.sqlite"
    before = index.read_bytes()
    assert sorted(contents(found)) == ["a.png", "b.png", "c.png", "d.png", "e.png"]
    found.close(send=False)
    tars(folder)[0].unlink()
    assert sorted(contents(found)) == sorted(contents(again(folder))) == ["d.png", "e.png"]
    assert index.read_bytes() == before
    index.unlink()
    assert sorted(contents(again(folder))) == ["d.png", "e.png"]
    assert not index.exists()


def test_a_tar_that_is_sent_while_another_process_looks_is_passed_over(folder: TarFolder) -> None:
    write(folder, ["a.png"])
    (folder.tars / "1-of-1-000007.tar").symlink_to("gone")
    assert list(contents(TarFolder(folder.path, OutputSettings()))) == ["a.png"]


def test_a_wrong_index_is_told_from_damage(folder: TarFolder) -> None:
    write(folder, ["a.png", "b.png"])
    folder.close(send=False)
    with sqlite3.connect(folder.tars / "1-of-1.sqlite") as connection:
        connection.execute("UPDATE members SET data = data + 1024 WHERE name = CAST('a.png' AS BLOB)")
        connection.execute("UPDATE members SET size = size + 1 WHERE name = CAST('b.png' AS BLOB)")
    for name in ("a.png", "b.png"):
        with pytest.raises(Tag2maskError, match="delete the index"):
            (folder / name).read_bytes()


def test_tars_of_others_are_a_folder_too(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "shard-000001.tar", "w") as archive:
        info = tarfile.TarInfo("x/a.png")
        info.size = 3
        archive.addfile(info, io.BytesIO(b"abc"))
    folder = found_folder(tmp_path)
    assert isinstance(folder, TarFolder) and contents(folder) == {"x/a.png": b"abc"}
    assert [path.name for path in tmp_path.iterdir()] == ["shard-000001.tar"]
    folder.close(send=False)
    assert found_folder(tmp_path / "none") == tmp_path / "none"


def hostile(**changes: object) -> bytes:
    """The header of a member ``a.png``, with these fields."""
    info = tarfile.TarInfo("a.png")
    for name, value in changes.items():
        setattr(info, name, value)
    return info.tobuf(tarfile.PAX_FORMAT if "pax_headers" in changes else tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    "content",
    [
        b"no tar at all" * 100,
        b"",
        hostile(size=-512),
        hostile(size=1 << 80),
        hostile(mtime=1 << 70) + bytes(1024),
        hostile(mtime=1 << 40) + bytes(1024),
        hostile(pax_headers={"mtime": "1e40"}),
        hostile(pax_headers={"mtime": "inf"}),
        hostile(pax_headers={"size": "-4096"}),
        hostile(type=tarfile.GNUTYPE_LONGNAME, size=0) * 3000,
        hostile(size=5000) + b"torn",
        hostile() + b"more" * 400,
    ],
)
def test_a_tar_that_somebody_damaged_or_made_up_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x-000000.tar").write_bytes(content)
    with pytest.raises(Tag2maskError, match=r"x-000000\.tar is no whole tar"):
        list(file_names(found_folder(tmp_path), ".png"))
    own = tmp_path / "run/tars/1-of-1-000000.tar"
    own.parent.mkdir(parents=True)
    own.write_bytes(content)
    folder = TarFolder(own.parent.parent, OutputSettings(photographs_per_tar=3))
    write(folder, ["b.png"])  # what is whole is kept, and gone on from
    assert set(contents(folder)) - {"a.png"} == {"b.png"}
    folder.close(send=False)


def test_tars_beside_single_files_are_not_what_is_meant(tmp_path: Path) -> None:
    (tmp_path / "masks.tar").write_bytes(hostile() + bytes(1024))
    with pytest.raises(UsageError, match=r"masks\.tar: .* should be named as NAME-000000\.tar"):
        found_folder(tmp_path)
    (tmp_path / "masks.tar").rename(tmp_path / "masks-000000.tar")
    (tmp_path / "x").mkdir()
    (tmp_path / "x/a.png").write_bytes(b"single")
    assert found_folder(tmp_path) == tmp_path


def test_photographs_may_lie_in_a_folder_of_the_name_of_that_of_tars(tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    write_bytes(masks / "tars/a.png", b"single")
    assert RunOutputs(tmp_path).folder("masks") == found_folder(masks) == masks
    folder = TarFolder(masks, OutputSettings(photographs_per_tar=3))
    write(folder, ["tars/b.png"])
    assert contents(folder) == contents(again(folder)) == {"tars/a.png": b"single", "tars/b.png": b"of tars/b.png"}


def test_names_of_tars_that_are_no_utf8_or_too_large_a_number(tmp_path: Path) -> None:
    raw = bytearray(hostile(name="caf\udce9.png"))
    (tmp_path / "x-000000.tar").write_bytes(raw + bytes(1024))
    (tmp_path / f"x-{10**19}.tar").write_bytes(raw + bytes(1024))
    folder = found_folder(tmp_path)
    assert isinstance(folder, TarFolder) and contents(folder) == {"caf\udce9.png": b""}
    folder.close(send=False)


def test_a_run_has_plain_folders_unless_tars_are_asked_for_or_there(tmp_path: Path) -> None:
    assert RunOutputs(tmp_path).folder("masks") == tmp_path / "masks"
    asked = RunOutputs(tmp_path, OutputSettings(photographs_per_tar=5), writer="2-of-3")
    write(asked.folder("masks"), ["a.png"])  # type: ignore[arg-type]
    asked.close(send=True)
    found = RunOutputs(tmp_path)
    assert (found.folder("masks") / "a.png").read_bytes() == b"of a.png"
    assert found.folder("cams/pot") == tmp_path / "cams/pot"
    found.close(send=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"photographs_per_tar": 0}, "photographs_per_tar should be at least 1"),
        ({"url": "gs://bucket"}, "set photographs_per_tar as well"),
        ({"photographs_per_tar": 9, "url": "bucket/run"}, "begin with a scheme"),
        ({"photographs_per_tar": 9, "url": "file:run"}, "begin with a scheme"),
        ({"photographs_per_tar": 9, "url": "pipe:cat > x", "read_url": "pipe:cat x"}, "url should say with {tar}"),
        ({"photographs_per_tar": 9, "url": "pipe:cat > x/{tar}"}, "a pipe goes one way"),
        ({"cached_tars": 0}, "cached_tars should be at least 1"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        OutputSettings(**settings)  # type: ignore[arg-type]
