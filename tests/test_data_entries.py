"""The list of images: it reads like a tuple, in every process, and does not grow in memory."""

import multiprocessing
import os
import threading
import tracemalloc
from pathlib import Path

import pytest

from tag2mask.data import listing, open_photos
from tag2mask.data.listing import FolderIndex
from tag2mask.data.photo import Photo, Photos
from tag2mask.data.photos import survey
from tag2mask.data.settings import DataSettings


def table(folder: Path, count: int) -> DataSettings:
    """A table of photographs that are all there."""
    (folder / "a").mkdir(parents=True)
    (folder / "source.png").write_bytes(b"x")
    lines = ["image,tags"]
    for number in range(count):
        (folder / f"a/photograph_{number:08}.png").hardlink_to(folder / "source.png")
        lines.append(f"a/photograph_{number:08}.png,{'cat;dog' if number % 3 else 'cat'}")
    (folder / "tags.csv").write_text("\n".join(lines) + "\n")
    return DataSettings(root=folder)


@pytest.fixture
def photos(tmp_path: Path) -> Photos:
    """Those of a table, 600 of them: more than are read at a time."""
    return open_photos(table(tmp_path / "data", 600)).photos


def test_a_sequence_reads_like_a_tuple(photos: Photos, tmp_path: Path) -> None:
    held = tuple(photos)
    assert [photo.id for photo in held] == [f"a/photograph_{number:08}" for number in range(600)]
    assert held[0] == Photo("a/photograph_00000000", tmp_path / "data/a/photograph_00000000.png", (1,))
    assert held[1].tags == (1, 2)
    assert photos == held
    assert photos != held[:-1]
    assert (photos[7], photos[-1]) == (held[7], held[-1])
    for key in (slice(3, 90), slice(2, None, 7), slice(None, None, -1), slice(500, 10_000), slice(5, 5)):
        assert photos[key] == held[key]
        assert photos[key][1:40:3] == held[key][1:40:3]
    with pytest.raises(IndexError):
        photos[600]
    odd = photos.where(lambda photo: photo.id.endswith(("1", "3")))
    assert odd == tuple(photo for photo in held if photo.id.endswith(("1", "3")))
    assert odd.at([5, 0]) == (odd[5], odd[0])
    assert photos[10:40:3].at([2, 0]) == (held[16], held[10])
    masked = odd.with_masks(Path("/truth"))
    assert [photo.mask for photo in masked] == [Path(f"/truth/{photo.id}.png") for photo in odd]
    assert Photos.of(held) == photos
    assert Photos.of(odd) is odd


def ids_of(photos: Photos, queue: "multiprocessing.queues.Queue[list[str]]") -> None:
    queue.put([photo.id for photo in photos[::100]])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes_read_it_and_leave_it(photos: Photos, method: str) -> None:
    wanted = [photo.id for photo in photos[::100]]
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    process = context.Process(target=ids_of, args=(photos, queue))
    process.start()
    assert queue.get(timeout=60) == wanted
    process.join()
    assert [photo.id for photo in photos[::100]] == wanted


def test_threads_read_it(photos: Photos) -> None:
    found: list[list[str]] = []
    threads = [threading.Thread(target=lambda: found.append([photo.id for photo in photos[::100]])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[photo.id for photo in photos[::100]]] * 4


def test_a_folder_is_read_once_for_all_that_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["image,tags"]
    for number in range(8):
        folder = tmp_path / "ab"[number % 2]
        folder.mkdir(exist_ok=True)
        (folder / f"{number}.png").touch()
        lines.append(f"{folder.name}/{number}.jpg,cat")
    (tmp_path / "tags.csv").write_text("\n".join(lines))
    read: list[str] = []
    scan = os.scandir
    monkeypatch.setattr(listing.os, "scandir", lambda folder: read.append(str(folder)) or scan(folder))
    found = [problem for problem in survey(DataSettings(root=tmp_path)).problems if problem.kind == "missing-image"]
    assert [f"did you mean {number}.png?" in str(problem) for number, problem in enumerate(found)] == [True] * 8
    assert (
        sum(Path(folder).name in "ab" for folder in read) == 4
    )  # each folder for what is there, and for what is near what is not


def test_a_folder_with_too_many_names_is_asked_for_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "HASHES", 10)
    for folder, count in (("few", 4), ("many", 12)):
        (tmp_path / folder).mkdir()
        for number in range(count):
            (tmp_path / folder / f"{number}.png").touch()
    index = FolderIndex()
    for folder, count in (("few", 4), ("many", 12)):
        assert [index.has(tmp_path / folder / f"{number}.png") for number in range(13)] == [
            number < count for number in range(13)
        ]
        (tmp_path / folder / "1.png").unlink()
        assert index.has(tmp_path / folder / "1.png") == (folder == "few")  # read once, or asked each time


def test_memory_does_not_grow_with_the_table(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        settings = table(tmp_path / str(count), count)
        tracemalloc.start()
        try:
            photos = open_photos(settings).photos
            assert sum(1 in photo.tags for photo in photos.where(lambda photo: 2 in photo.tags)) > count // 2
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    few, many = peak(1000), peak(9000)
    assert many - few < 8000 * 40  # bytes; a photograph and its ID take 150
