"""The manifest of a data set, and sequences that read it."""

import multiprocessing
import os
import pickle
import tempfile
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tag2mask.core.errors import Tag2maskError
from tag2mask.data import arrow_rows as row_files
from tag2mask.data import open_images
from tag2mask.data.dataset import survey
from tag2mask.data.manifest import ImageItem, Images
from tag2mask.data.readers import scan as listing
from tag2mask.data.readers.entries import Entries, Entry
from tag2mask.data.settings import DataSettings

NAMES = st.text(st.characters(exclude_characters="\0"), min_size=1, max_size=8)  # also what no encoding has


@given(st.lists(st.tuples(NAMES, st.none() | st.lists(NAMES, max_size=3).map(tuple), NAMES, st.integers(0, 9))))
def test_entries_come_back_as_they_were_added(values: list[tuple[str, tuple[str, ...] | None, str, int]]) -> None:
    added = [Entry(name, f"/photos/{name}.jpg", tags, source, line) for name, tags, source, line in values]
    entries = Entries(added)
    assert len(entries) == len(added)
    assert list(entries) == added
    assert [entry.file for entry in entries] == [entry.file for entry in added]
    ids = [entry.id for entry in added]
    assert entries.repeated() == [entry for entry in added if ids.count(entry.id) > 1]
    if added:
        with pytest.raises(RuntimeError, match="complete"):
            entries.append(added[0])


def table(folder: Path, count: int) -> DataSettings:
    """A table of images that are all there."""
    (folder / "a").mkdir(parents=True)
    (folder / "source.png").write_bytes(b"x")
    lines = ["image,tags"]
    for number in range(count):
        (folder / f"a/image_{number:08}.png").hardlink_to(folder / "source.png")
        lines.append(f"a/image_{number:08}.png,{'cat;dog' if number % 3 else 'cat'}")
    (folder / "tags.csv").write_text("\n".join(lines) + "\n")
    return DataSettings(root=folder)


@pytest.fixture
def items(tmp_path: Path) -> Images:
    """Those of a table, 600 of them: more than are read at a time."""
    return open_images(table(tmp_path / "data", 600)).items


def test_a_sequence_reads_like_a_tuple(items: Images, tmp_path: Path) -> None:
    held = tuple(items)
    assert [item.id for item in held] == [f"a/image_{number:08}" for number in range(600)]
    assert held[0] == ImageItem("a/image_00000000", str(tmp_path / "data/a/image_00000000.png"), (1,))
    assert held[1].tags == (1, 2)
    assert items == held
    assert items != held[:-1]
    assert (items[7], items[-1]) == (held[7], held[-1])
    for key in (slice(3, 90), slice(2, None, 7), slice(None, None, -1), slice(500, 10_000), slice(5, 5)):
        assert items[key] == held[key]
        assert items[key][1:40:3] == held[key][1:40:3]
    with pytest.raises(IndexError):
        items[600]
    odd = items.filter(lambda item: item.id.endswith(("1", "3")))
    assert odd == tuple(item for item in held if item.id.endswith(("1", "3")))
    assert odd.take([5, 0]) == (odd[5], odd[0])
    assert items[10:40:3].take([2, 0]) == (held[16], held[10])
    masked = odd.with_truth(Path("/truth"))
    assert [item.truth for item in masked] == [Path(f"/truth/{item.id}.png") for item in odd]
    assert Images.from_list(held) == items
    assert Images.from_list(odd) is odd


def ids_of(items: Images, queue: "multiprocessing.queues.Queue[list[str]]") -> None:
    queue.put([item.id for item in items[::100]])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes_read_it_and_leave_it(items: Images, method: str) -> None:
    wanted = [item.id for item in items[::100]]
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    process = context.Process(target=ids_of, args=(items, queue))
    process.start()
    assert queue.get(timeout=60) == wanted
    process.join()
    assert [item.id for item in items[::100]] == wanted


def test_threads_read_it(items: Images) -> None:
    found: list[list[str]] = []
    threads = [threading.Thread(target=lambda: found.append([item.id for item in items[::100]])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[item.id for item in items[::100]]] * 4


def test_the_list_of_a_command_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    entries = Entries([Entry("one", "/one.jpg", ("cat",))])
    assert [entry.id for entry in entries] == ["one"]
    assert not list(tmp_path.iterdir())  # while it is in use: names and tags may be private, and a kill leaves nothing


def test_a_saved_manifest_is_read_by_others_as_a_table(tmp_path: Path) -> None:
    images = open_images(table(tmp_path / "data", 40)).items
    saved = images.save(tmp_path / "data.arrow")
    assert saved == images
    copy = pickle.loads(pickle.dumps(saved[3:9]))
    assert copy == images[3:9]
    found = pa.ipc.open_file(tmp_path / "data.arrow").read_all().to_pylist()
    assert [row["id"] for row in found] == [item.id for item in images]
    assert [row["tags"] for row in found] == [list(item.tags) for item in images]
    assert [Path(row["image"]) for row in found] == [item.path for item in images]


def test_places_in_any_order_are_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(row_files, "BATCH_ROWS", 7)
    images = open_images(table(tmp_path / "data", 60)).items
    held = tuple(images)
    places = np.random.default_rng(0).permutation(60)
    assert images.take(places) == tuple(held[place] for place in places)
    assert images.take([5, 5, 59, 0]) == (held[5], held[5], held[59], held[0])


def test_without_room_for_it_the_error_names_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(Tag2maskError, match=r"could not be kept .*missing.* TMPDIR"):
        list(Entries([Entry("one", "/one.jpg", ("cat",))]))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path / "missing")])
    with pytest.raises(Tag2maskError, match=r"could not be kept .* TMPDIR"):
        list(Entries([Entry("one", "/one.jpg", ("cat",))]))


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


def test_memory_does_not_grow_with_the_table(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        settings = table(tmp_path / str(count), count)
        tracemalloc.start()
        try:
            images = open_images(settings).items
            assert sum(1 in item.tags for item in images.filter(lambda item: 2 in item.tags)) > count // 2
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    few, many = peak(5000), peak(13_000)
    assert many - few < 8000 * 64  # bytes; an image and its ID take 150


def test_an_image_equals_one_that_is_held(items: Images, tmp_path: Path) -> None:
    path = tmp_path / "data/a/image_00000000.png"
    assert items[0] == ImageItem("a/image_00000000", str(path), (1,))
