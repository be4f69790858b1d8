"""COCO roots: ids, tags, painted masks against those of pycocotools, the index, and everything that can be broken."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from socket import gethostname
from typing import Any

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO
from rich.console import Console

from data_sets import annotation, failure, image
from forked import together
from run_tiny import figures, words
from tag2mask.cli import main
from tag2mask.core.errors import UsageError
from tag2mask.data.dataset import ImageSet, open_images, survey
from tag2mask.data.images import read_mask, write_mask
from tag2mask.data.problems import Problem
from tag2mask.data.readers import coco_index as annotation_index
from tag2mask.data.readers import rasterise as rasterise_module
from tag2mask.data.readers.coco import COCO_CLASSES
from tag2mask.data.readers.coco_annotations import Annotation
from tag2mask.data.readers.coco_rle import segmentation_fault, to_runs
from tag2mask.data.readers.rasterise import rasterise
from tag2mask.data.settings import Crowd, DataSettings
from tag2mask.data.validation.check import check
from tag2mask.runs import ground_truth as truth
from tag2mask.runs.config import Config
from tag2mask.runs.ground_truth import with_ground_truth
from tag2mask.stages.segment import Segment
from tag2mask.training.settings import SegmentSettings
from test_data_check import write_image
from test_segment_stages import SEGMENT

GAPS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
SIZE = (48, 64)  # of the images here


def square(top: int, left: int, side: int) -> list[list[float]]:
    bottom, right = top + side, left + side
    return [[left, top, right, top, right, bottom, left, bottom]]


def of_size(number: int, name: str) -> dict[str, Any]:
    return image(number, name, height=SIZE[0], width=SIZE[1])


def crowd_runs() -> dict[str, Any]:
    """The left half of an image as counts: columns follow one another."""
    return {"size": list(SIZE), "counts": [0, 48 * 32, 48 * 32]}


def document() -> dict[str, Any]:
    """Three images: a dog on a cat, a crowd of cats under a dog, and nothing."""
    return {
        "images": [of_size(number, f"p{number}.jpg") for number in (3, 7, 9)],
        "categories": [{"id": 40, "name": "dog"}, {"id": 5, "name": "cat"}],
        "annotations": [
            annotation(11, 3, 40, segmentation=square(4, 4, 8)),
            annotation(12, 3, 5, segmentation=square(2, 2, 20)),
            annotation(13, 7, 40, segmentation=square(10, 20, 20)),
            annotation(14, 7, 5, segmentation=crowd_runs(), iscrowd=1),
        ],
    }


def write(root: Path, content: dict[str, Any] | bytes, split: str = "train2024") -> Path:
    path = root / "annotations" / f"instances_{split}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number in (3, 7, 9):
        write_image(tmp_path / "coco" / "train2024" / f"p{number}.jpg")
    return write(tmp_path / "coco", document())


@pytest.fixture(scope="module")
def mini(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real sample, in a folder that can be written to."""
    if not (real_data / "data" / "coco-mini").is_dir():
        pytest.skip("TAG2MASK_DATA has no data/coco-mini")
    folder = tmp_path_factory.mktemp("coco") / "mini"
    shutil.copytree(real_data / "data" / "coco-mini", folder, copy_function=shutil.copyfile)
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755)
    return folder


def painted(settings: DataSettings, split: str | None = None, workers: int = 0) -> ImageSet:
    config = Config(data=settings, workers=workers)
    return with_ground_truth(config, open_images(settings, split=split), Console(quiet=True))


def mask_of(settings: DataSettings, image_id: str) -> np.ndarray:
    return read_mask(painted(settings).by_id(image_id).truth or Path())


def problems(root: Path, **options: Any) -> dict[str, list[Problem]]:
    found: dict[str, list[Problem]] = {}
    for problem in survey(DataSettings(root=root, **options)).problems:
        found.setdefault(problem.kind, []).append(problem)
    return found


# Ids, splits and tags


def test_ids_are_ranks_of_the_sorted_official_ones_whatever_their_order(root: Path) -> None:
    images = open_images(DataSettings(root=root))
    assert images.classes == ("cat", "dog")
    assert [(item.id, item.tags, item.truth) for item in images.items] == [("p3", (1, 2), None), ("p7", (1, 2), None)]
    turned = document()
    turned["categories"].reverse()
    write(root, turned)
    assert open_images(DataSettings(root=root)).items == images.items


def test_the_official_classes_have_ids_1_to_80(root: Path) -> None:
    official = [number for number in range(1, 91) if number not in GAPS]
    content = document()
    content["categories"] = [{"id": number, "name": name} for number, name in zip(official, COCO_CLASSES, strict=True)]
    content["annotations"] = [
        annotation(1, 3, 90, segmentation=square(0, 0, 9)),
        annotation(2, 3, 13, segmentation=square(0, 0, 5)),
    ]
    write(root, content)
    images = open_images(DataSettings(root=root))
    assert images.classes == COCO_CLASSES
    assert images.items[0].tags == (12, 80)
    assert [images.classes[number - 1] for number in (1, 12, 80)] == ["person", "stop sign", "toothbrush"]


def test_splits_with_and_without_their_year(root: Path) -> None:
    other = document()
    other["images"] = [of_size(1, "v1.jpg")]
    other["annotations"] = [annotation(1, 1, 5)]
    write(root, other, "val2024")
    write_image(root / "val2024" / "v1.jpg")
    settings = DataSettings(root=root)
    ids = {split: [item.id for item in open_images(settings, split=split).items] for split in ("train", "val2024")}
    assert ids == {"train": ["p3", "p7"], "val2024": ["v1"]}
    assert [item.id for item in open_images(settings).items] == ["p3", "p7", "v1"]
    assert survey(settings, split="val").listing.splits == {"train2024": 2, "val2024": 1}
    assert "there is no instances_trian.json, there are train2024, val2024" in failure(settings, "trian")
    write(root, document(), "train2017")
    (root / "train2017").mkdir()
    assert "there is no instances_train.json, there are train2017, train2024, name one" in failure(settings, "train")
    message = failure(settings, "train2017")
    assert "images of the same name are in annotations/instances_train2024.json (3): p3.jpg, p7.jpg" in message
    assert "a COCO root needs a file instances_SPLIT.json" in failure(DataSettings(kind="coco", root=root / "val2024"))
    assert "data.root is missing" in failure(DataSettings(kind="coco", tags=root / "tags.csv"))


def test_a_list_of_another_splits_images_does_not_stand_in_its_way(root: Path) -> None:
    part = document()
    part["images"] = part["images"][:1]
    part["annotations"] = part["annotations"][:2]
    part["categories"][0]["name"] = "wolf"
    write(root, part, "minitrain2024")
    for split in ("train", "train2024"):
        assert [item.id for item in open_images(DataSettings(root=root), split=split).items] == ["p3", "p7"]
    assert not (root / "SegmentationClass/instances_minitrain2024.npz").exists()
    assert check(DataSettings(root=root, split="train")).sound
    assert "does not exist" in failure(DataSettings(root=root), "minitrain")


def test_a_tags_table_overrides_the_annotations(root: Path) -> None:
    settings = DataSettings(root=root, tags=root / "ours.csv")
    (root / "ours.csv").write_text("image,tags\np3,dog\ntrain2024/p7.jpg,\np9.jpg,cat\n")
    tags = {item.id: item.tags for item in open_images(settings).items}
    assert tags == {"p3": (2,), "p7": (), "p9": (1,)}
    (root / "ours.csv").write_text("image,tags\np3.jpg,cow\n")
    message = failure(settings)
    assert "the tag `cow` is not in the class list" in message
    assert "ours.csv: p7 has no line; add `p7.jpg,TAGS`" in message
    (root / "ours.csv").write_text("")
    assert failure(settings).count("\n") == 1


def test_a_published_list_overrides_the_annotations(root: Path) -> None:
    settings = DataSettings(root=root, tags=root / "train.txt")
    (root / "train.txt").write_bytes(b"p3 1 0 1\r\n\np7 1\r\nelsewhere 0\r\n")
    found = open_images(settings)
    assert {item.id: item.tags for item in found.items} == {"p3": (1, 2), "p7": (2,)}
    assert "the tags are class ids, from 0 `cat` to 1 `dog`" in found.notes
    settings.classes = "dog,cat"  # the ids of the list keep their meaning
    assert {item.id: item.tags for item in open_images(settings).items} == {"p3": (1, 2), "p7": (1,)}


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        (b"p3 2\np7 1\n", "train.txt line 1: `2` is not a class id; a line of a list is `IMAGE ID ID`, with ids"),
        (b"p3 0\np7 dog\n", "train.txt line 2: `dog` is not a class id"),
        (b"p3 0\np7\n", "train.txt line 2: `p7` has no class id"),
        (b"image,tags\np3 0\np7 1\n", "`image,tags` has no class id; a line of a list is `IMAGE ID ID`, with ids"),
        (b"p3 0\np7 1\np3.jpg 1\n", "line 3: p3 has two lines, the first is line 1; join their tags in one"),
        (b"p3 0\n", "train.txt: p7 has no line; add `p7.jpg ID ID`"),
        (b"p3 0\np7 1\np\xff 0\n", "train.txt line 3: the line is not UTF-8"),
    ],
)
def test_faulty_lists(root: Path, lines: bytes, fault: str) -> None:
    (root / "train.txt").write_bytes(lines)
    message = failure(DataSettings(root=root, tags=root / "train.txt"))
    assert fault in message and message.count("\n") == 1


def test_what_is_named_like_cocos_own_file_is_compared_with_it(root: Path) -> None:
    assert "unlike-coco" not in problems(root)
    (root / "annotations/instances_train2024.json").rename(root / "annotations/instances_train2014.json")
    (root / "train2024").rename(root / "train2014")
    count, names = problems(root)["unlike-coco"]
    assert count.level == names.level == "warning"
    assert "2 images hold an annotated class, in COCO's own file 82,081" in count.message
    assert "its 2 categories are not COCO's 80" in names.message


# Rasterisation


@pytest.mark.parametrize(("crowd", "left"), [("ignore", 255), ("paint", 1), ("skip", 0)])
def test_small_lies_on_large_and_both_on_crowds(root: Path, crowd: Crowd, left: int) -> None:
    settings = DataSettings(root=root, crowd=crowd)
    expected = np.zeros(SIZE, dtype=np.uint8)
    expected[2:22, 2:22] = 1
    expected[4:12, 4:12] = 2
    assert (mask_of(settings, "p3") == expected).all()
    expected = np.zeros(SIZE, dtype=np.uint8)
    expected[:, :32] = left
    expected[10:30, 20:40] = 2
    assert (mask_of(settings, "p7") == expected).all()


@given(st.permutations(range(4)))
def test_the_order_in_the_file_does_not_matter(order: list[int]) -> None:
    shapes = [square(2, 2, 9), square(5, 5, 9), square(8, 8, 9), square(0, 0, 30)]
    found = [Annotation(number, number, False, shape) for number, shape in enumerate(shapes)]
    ids = {number: number + 1 for number in range(4)}
    mask = rasterise(SIZE, [found[place] for place in order], ids, "ignore")
    assert [mask[3, 3], mask[6, 6], mask[9, 9], mask[20, 20]] == [1, 2, 3, 4]  # of equal ones the last id is on top


def test_classes_of_the_users_order_are_painted_so(root: Path, tmp_path: Path) -> None:
    settings = DataSettings(root=root, classes="zebra,dog,cat", masks=tmp_path / "masks")
    assert sorted(np.unique(mask_of(settings, "p3"))) == [0, 2, 3]
    settings = DataSettings(root=root, masks=tmp_path / "masks")
    assert "painted.json: the masks here were rasterised of other classes; name another folder" in failure(settings)


def test_only_what_is_missing_is_painted_and_settings_never_mix(root: Path) -> None:
    settings = DataSettings(root=root)
    open_images(settings)
    folder = root / "SegmentationClass"
    assert not list(folder.glob("*.png")) and not (folder / "painted.json").exists()
    painted(settings)
    before = (folder / "p7.png").read_bytes()
    write_mask(folder / "p3.png", np.zeros(SIZE, dtype=np.uint8))
    (folder / "p7.png").unlink()
    images = painted(settings)
    assert all(item.truth and item.truth.is_file() for item in images.items)
    assert not read_mask(folder / "p3.png").any()
    assert (folder / "p7.png").read_bytes() == before
    message = failure(DataSettings(root=root, crowd="skip"))
    assert "painted.json: the masks here were rasterised with data.crowd ignore; name another folder" in message
    content = document()
    content["annotations"].pop()
    write(root, content)
    assert "the masks here were rasterised from another instances_train2024.json" in failure(settings)
    for text in ("[]", "{", "{}"):
        (folder / "painted.json").write_text(text)
        assert "delete the folder to have them rasterised again" in failure(settings)


def test_masks_from_elsewhere_are_used_whole_or_not_at_all(root: Path) -> None:
    settings = DataSettings(root=root, masks=root / "theirs")
    write_mask(root / "theirs" / "p3.png", np.full(SIZE, 2, dtype=np.uint8))
    with pytest.raises(UsageError, match="theirs holds masks that were not rasterised here, and lacks 1 of those"):
        painted(settings)
    write_mask(root / "theirs" / "p7.png", np.full(SIZE, 2, dtype=np.uint8))
    assert len(painted(settings)) == 2
    assert not (root / "theirs" / "painted.json").exists()


def test_what_was_left_unfinished_is_deleted_in_our_folder_alone(root: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    partial = f".partial-{gethostname()}~{ended.pid}~0~p7.png"
    write_mask(root / "theirs" / "p3.png", np.zeros(SIZE, dtype=np.uint8))
    (root / "theirs" / partial).touch()
    with pytest.raises(UsageError, match="were not rasterised here"):
        painted(DataSettings(root=root, masks=root / "theirs"))
    assert (root / "theirs" / partial).exists()
    ours = root / "SegmentationClass"
    painted(DataSettings(root=root))
    (ours / "p7.png").unlink()
    (ours / partial).touch()
    painted(DataSettings(root=root))
    assert not (ours / partial).exists()


def test_commands_that_paint_at_once_all_stand_in_the_record(root: Path) -> None:
    splits = [f"s{number}" for number in range(12)]
    for split in splits:
        content = document()
        content["images"] = [of_size(1, f"{split}.jpg")]
        content["annotations"] = [annotation(1, 1, 5)]
        write(root, content, split)
        write_image(root / split / f"{split}.jpg")
    sets = [open_images(DataSettings(root=root), split=split) for split in splits]
    with ThreadPoolExecutor(len(sets)) as pool:
        list(pool.map(lambda items: with_ground_truth(Config(workers=0), items, Console(quiet=True)), sets))
    record = json.loads((root / "SegmentationClass" / "painted.json").read_text())
    assert set(record["sources"]) == {f"instances_{split}.json" for split in splits}


def test_of_two_that_paint_differently_at_once_one_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = open_images(DataSettings(root=root))
    read = rasterise_module.read_annotations

    def meanwhile(path: Path, subject: str) -> rasterise_module.AnnotationFile:
        """Another command begins to paint between the first look at the record and the writing of it."""
        monkeypatch.setattr(rasterise_module, "read_annotations", read)
        painted(DataSettings(root=root, crowd="skip"))
        return read(path, subject)

    monkeypatch.setattr(rasterise_module, "read_annotations", meanwhile)
    with pytest.raises(UsageError, match=r"painted\.json: the masks here were rasterised with data\.crowd skip"):
        with_ground_truth(Config(workers=0), images, Console(quiet=True))


def test_of_several_processes_the_main_one_paints_and_all_use_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[bool] = []
    monkeypatch.setattr(truth, "wait", lambda: waited.append((root / "SegmentationClass/p7.png").exists()))
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    monkeypatch.setenv("WORLD_SIZE", "2")
    found = {}
    for number in (1, 0, 1):
        monkeypatch.setenv("RANK", str(number))
        found[number] = painted(DataSettings(root=root))
    assert waited == [False, True, True]  # all wait, always: some may look when others have painted
    seen = [[(item.id, item.tags, item.truth) for item in found[number].items] for number in (0, 1)]
    assert seen[0] == seen[1] and len(seen[1]) == 2


def test_a_mask_above_the_pixel_limit_is_refused(root: Path) -> None:
    with pytest.raises(UsageError, match=r"2 masks would have more than data\.pixel_limit = 1,000 pixels: p3, p7"):
        painted(DataSettings(root=root, pixel_limit=1000))


def slow_mask(coco: COCO, image: dict[str, Any], crowd: Crowd) -> np.ndarray:
    """The rule, pixel by pixel mask of pycocotools' own API."""
    found = [(each, coco.annToMask(each) > 0) for each in coco.imgToAnns[image["id"]]]
    ranks = {number: rank for rank, number in enumerate(sorted(coco.cats), 1)}
    mask = np.zeros((image["height"], image["width"]), dtype=np.uint8)
    for crowds in (1, 0):
        layer = [(-int(inside.sum()), each["id"], each, inside) for each, inside in found if each["iscrowd"] == crowds]
        for *_, each, inside in sorted(layer, key=lambda item: item[:2]):
            if crowds and crowd == "skip":
                continue
            mask[inside] = 255 if crowds and crowd == "ignore" else ranks[each["category_id"]]
    return mask


@pytest.mark.data
@pytest.mark.parametrize("split", ["train", "val"])
def test_real_masks_are_those_of_pycocotools(mini: Path, split: str, tmp_path: Path) -> None:
    coco = COCO(mini / f"annotations/instances_{split}2014.json")
    for workers, crowd in ((0, "ignore"), (2, "skip")):
        images = painted(DataSettings(root=mini, crowd=crowd, masks=tmp_path / crowd), split, workers)
        assert (images.classes, len(images)) == (COCO_CLASSES, {"train": 65, "val": 133}[split])
        for item in images.items:
            image = coco.imgs[int(item.id.rpartition("_")[2])]
            mask = read_mask(item.truth or Path(), size=(image["height"], image["width"]), classes=80)
            assert (mask == slow_mask(coco, image, crowd)).all(), item.id
            ids = {each["category_id"] for each in coco.imgToAnns[image["id"]]}
            assert [coco.cats[number]["name"] for number in sorted(ids)] == [COCO_CLASSES[tag - 1] for tag in item.tags]


def test_polygons_are_painted_as_pycocotools_does(root: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    content = document()
    content["annotations"] = [
        annotation(number, 3 if number % 2 else 7, 5 if number % 3 else 40, segmentation=polygons)
        for number in range(12)
        if (polygons := [list(random.uniform(-3, 60, 2 * corners)) for corners in random.integers(3, 7, 2)])
    ]
    write(root, content)
    coco = COCO(root / "annotations/instances_train2024.json")
    for item in painted(DataSettings(root=root)).items:
        assert (read_mask(item.truth or Path()) == slow_mask(coco, coco.imgs[int(item.id[1:])], "ignore")).all()


def test_processes_that_paint_end_with_a_command_that_is_killed(tmp_path: Path) -> None:
    code = f"""
import multiprocessing, time
from pathlib import Path
from tag2mask.data.readers.rasterise import Job, _run

if __name__ == "__main__":
    painted = _run([Job(Path({str(tmp_path)!r}) / f"{{n}}.png", (8, 8), [], {{}}, "skip") for n in range(99)], 2)
    next(painted)
    print(*(process.pid for process in multiprocessing.active_children()), flush=True)
    time.sleep(300)
"""
    (tmp_path / "paint.py").write_text(code)
    command = subprocess.Popen([sys.executable, tmp_path / "paint.py"], stdout=subprocess.PIPE, text=True)
    assert command.stdout is not None
    workers = [int(number) for number in command.stdout.readline().split()]
    assert workers and not any(map(is_over, workers))
    command.kill()
    command.wait()  # not for the end of its output, which its processes hold
    until = time.monotonic() + 60
    while left := [number for number in workers if not is_over(number)]:
        if time.monotonic() > until:
            for number in left:
                os.kill(number, signal.SIGKILL)
        assert time.monotonic() < until, "they should end"
        time.sleep(0.05)


def is_over(process: int) -> bool:
    """Whether a process has ended, be it that nobody has asked for its exit code yet."""
    return not psutil.pid_exists(process) or psutil.Process(process).status() == psutil.STATUS_ZOMBIE


@given(arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.integers(0, 1)))
def test_run_lengths_must_fill_their_image(mask: np.ndarray) -> None:
    runs = coco_masks.encode(np.asfortranarray(mask))
    text = {"size": list(mask.shape), "counts": runs["counts"].decode()}
    assert segmentation_fault(text, mask.shape) is None
    assert (coco_masks.decode(to_runs(text, mask.shape)) == mask).all()
    assert "of the size" in (segmentation_fault(text, (mask.shape[0] + 1, mask.shape[1])) or "")
    cut = {**text, "counts": text["counts"][:-1]}
    assert segmentation_fault(cut, mask.shape) is not None


# The index


def test_the_index_is_used_until_the_file_changes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[Path] = []
    read = annotation_index.read_annotations
    monkeypatch.setattr(
        annotation_index, "read_annotations", lambda path, subject: reads.append(path) or read(path, subject)
    )
    content = document()
    content["annotations"].append(annotation(15, 9, 40, segmentation=[]))
    write(root, content)
    first, again = survey(DataSettings(root=root)), survey(DataSettings(root=root))
    assert len(reads) == 1
    assert (again.images, again.problems) == (first.images, first.problems)
    assert list(again.listing.entries) == list(first.listing.entries)
    assert [problem.kind for problem in first.problems] == ["bad-annotation"]  # a warning is kept
    content["annotations"].pop()
    write(root, content)
    assert [item.id for item in open_images(DataSettings(root=root)).items] == ["p3", "p7"]
    path = root / "annotations/instances_train2024.json"
    before = path.stat()
    content["annotations"][0]["image_id"] = 9
    write(root, content)
    assert path.stat().st_size == before.st_size
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert [item.id for item in open_images(DataSettings(root=root)).items] == ["p3", "p7", "p9"]
    index = root / "SegmentationClass" / "instances_train2024.npz"
    for damaged in (b"", index.read_bytes()[:200]):
        index.write_bytes(damaged)
        assert len(open_images(DataSettings(root=root))) == 3


def test_without_a_place_for_the_index_the_check_notes_it_and_all_goes_on(root: Path) -> None:
    (root / "SegmentationClass").touch()  # not a folder
    assert len(open_images(DataSettings(root=root))) == 2
    report = check(DataSettings(root=root))
    assert report.sound
    assert "the index of annotations/instances_train2024.json cannot be kept in" in report.notes[0]
    assert report.notes[0] in report.render()


# The check and the command line


def test_the_check_counts_masks_and_finds_images_of_another_size(root: Path) -> None:
    report = check(DataSettings(root=root))
    assert (report.sound, report.kind, report.images, report.masks) == (True, "coco", 2, 0)
    to_paint = "masks to be rasterised from the annotations when they are first needed: 2, into SegmentationClass"
    assert to_paint in report.notes
    write_image(root / "train2024" / "p3.jpg", 40, 64)
    (problem,) = check(DataSettings(root=root)).errors
    assert str(problem).startswith("train2024/p3.jpg: the image is 64 × 40 pixels, its annotation 64 × 48")
    painted(DataSettings(root=root))
    report = check(DataSettings(root=root))
    assert [problem.kind for problem in report.errors] == ["mask-size"]
    assert report.masks == 2 and to_paint not in report.notes


def test_broken_annotations_do_not_hide_broken_images(root: Path) -> None:
    painted(DataSettings(root=root))
    write(root, b"{")
    (root / "train2024" / "p9.jpg").write_bytes(b"")
    report = check(DataSettings(root=root))
    assert [problem.kind for problem in report.errors] == ["bad-annotation", "empty-image"]
    assert report.images == 3  # masks are none


def test_a_dry_run_paints_nothing_and_evaluate_does(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data.root", str(root), "--workers", "0"]
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yaml").write_text("seed: 0\n")
    assert main(["evaluate", str(tmp_path / "run"), *data, "--dry-run"]) == 0
    assert "on all (0 with truth, 2 to rasterise)" in capsys.readouterr().out
    folder = root / "SegmentationClass"
    assert not list(folder.glob("*.png"))
    painted(DataSettings(root=root, masks=tmp_path / "same"))
    shutil.rmtree(folder)
    assert main(["evaluate", str(tmp_path / "same"), *data, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["miou"] == 1
    assert {path.name for path in folder.iterdir()} == {"p3.png", "p7.png", "painted.json", "instances_train2024.npz"}


def test_a_run_from_the_annotations_to_the_page_paints_as_it_goes(root: Path, tmp_path: Path) -> None:
    out, changes = tmp_path / "run", {"segment__labels": "truth", "segment__validate_every": "3"}
    settings = ["--data.root", str(root), "--data.split", "train", "--data.masks", str(tmp_path / "masks")]
    changed = {**SEGMENT, **changes, "evaluate__splits": "train", "train__batch_size": "2", "segment__batch_size": "2"}
    command = words("run", root, out, **changed)
    assert main([*command, *settings]) == 0
    assert {path.stem for path in (tmp_path / "masks").glob("*.png")} == {"p3", "p7"}
    measured = figures(out)
    assert measured["cams"]["train"]["pot"]["images"] == measured["segment"]["train"]["predictions"]["images"] == 2
    assert (out / "report.html").stat().st_size > 10_000
    before = {path.name: path.read_bytes() for path in (tmp_path / "masks").glob("*.png")}
    shutil.rmtree(tmp_path / "masks")
    several = together(2, ["evaluate", str(out)], tmp_path / "several")
    assert [command.code() for command in several] == [0, 0], several[0].errors
    painted = [command.errors.count("rasterise ground truth into") for command in several]
    assert sum(painted) == 2, painted  # half of it, and the rest
    assert {path.name: path.read_bytes() for path in (tmp_path / "masks").glob("*.png")} == before
    assert figures(out) == measured


def test_what_is_learnt_from_truth_depends_on_how_it_is_painted(root: Path, tmp_path: Path) -> None:
    def claimed(labels: str = "truth", masks: str | None = None, **data: Any) -> dict[str, Any]:
        settings = DataSettings(root=root, masks=tmp_path / masks if masks else None, **data)
        segment = SegmentSettings(labels=labels)  # type: ignore[arg-type]
        return Segment().fingerprint(Config(data=settings, segment=segment), open_images(settings))

    usual = claimed()
    assert usual["data"] == {"split": None}  # as it was before there was such a claim
    assert claimed(crowd="skip")["data"] == {"split": None, "crowd": "skip"}
    assert claimed("masks", crowd="skip") == claimed("masks")
    painted(DataSettings(root=root))
    shutil.copytree(root / "SegmentationClass", tmp_path / "moved")
    assert claimed() == claimed(masks="moved") == claimed(masks="new") == usual
    (tmp_path / "moved/painted.json").unlink()
    assert claimed(masks="moved")["data"]["crowd"] == "as the masks that were given have it"


# What can be broken


def put(*way: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    """Sets what lies at a place of the document; None deletes it."""

    def change(content: Any) -> None:
        *parents, last = way
        for step in parents:
            content = content[step]
        if value is None:
            del content[last]
        else:
            content[last] = value

    return change


def of_image(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return put("images", 1, name, value=value)


def of_category(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return put("categories", 1, name, value=value)


def of_annotation(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return put("annotations", 0, name, value=value)


def shape(value: Any) -> Callable[[dict[str, Any]], None]:
    return of_annotation("segmentation", value)


def runs(counts: Any) -> Callable[[dict[str, Any]], None]:
    return shape({"size": list(SIZE), "counts": counts})


BROKEN: dict[str, list[tuple[Callable[[dict[str, Any]], None], str]]] = {
    "bad-annotation": [
        (put("images", value=None), "the list `images` is missing; download or export the file again"),
        (put("annotations", value={}), "the list `annotations` is missing"),
        (put("images", 1, value=4), "json images item 2: `id`, `file_name`, `height`, `width` is missing"),
        (of_image("height", "48"), "images item 2: `height` is missing or of another kind"),
        (of_image("id", 2**70), "images item 2: `id` is missing or of another kind"),
        (of_image("width", 0), "p7.jpg is said to be 0 × 48 pixels; a side should have 1"),
        (of_image("file_name", "a/p7.jpg/"), "file_name `a/p7.jpg/` names a folder"),
        (of_image("file_name", ""), "file_name `` is empty; it should be the name"),
        (of_annotation("image_id", 4), "annotation 11 is of 4, which the list `images` does"),
        (of_annotation("category_id", 6), "annotation 11 is of 6, which the list `categ"),
        (of_annotation("image_id", None), "annotations item 1: `image_id` is missing"),
        (shape({"size": [64, 48], "counts": "0"}), "run lengths are of the size [64, 48], its image's is [48, 64]"),
        (runs([1, 2]), "run lengths add up to 3 pixels, its image has 3072"),
        (runs("52203"), "annotation 11 of p3.jpg: its run lengths add up to"),
        (runs("ä"), "its run lengths are damaged (the character 'ä'"),
        (runs("o"), "its run lengths are damaged (the last number is cut off"),
        (runs([-1, 3073]), "should be counts of pixels, none below 0"),
        (shape([[1, 2, 3, 4, 5]]), "should be a list x, y, x, y, … of an even number of coordinates"),
        (shape([[1, 2, 3, 4, 5, float("nan")]]), "coordinates should be finite numbers"),
        (shape([[1, 2, 3, 4, 5, 1e9]]), "a polygon lies far outside the image, which is 64 × 48 pixels"),
        (shape("all"), "should be a list of polygons, or run lengths"),
    ],
    "duplicate-id": [
        (of_image("id", 3), "images item 2: the id 3 is listed twice"),
        (of_image("file_name", "p3.jpg"), "images item 2: p3.jpg is listed twice"),
    ],
    "outside-root": [(of_image("file_name", "../p7.jpg"), "file_name `../p7.jpg` may lie outside the root")],
    "bad-classes": [
        (of_category("id", 40), "categories item 2: two categories have the id 40"),
        (of_category("name", "dog"), "categories item 2: two categories have the name `dog`"),
        (of_category("name", " "), "the category 5 has no name that can be shown"),
        (of_category("name", "background"), "background has id 0 by itself"),
    ],
}


@pytest.mark.parametrize(("kind", "change", "message"), [(kind, *case) for kind in BROKEN for case in BROKEN[kind]])
def test_every_break_is_one_clear_error(
    root: Path, kind: str, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    content = document()
    change(content)
    write(root, content)
    found = problems(root)
    assert [problem.level for problem in found[kind]].count("error") == 1
    assert message in str(found[kind][0])
    assert message in failure(DataSettings(root=root))
    assert not (root / "SegmentationClass" / "instances_train2024.npz").exists() or "background" in message


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe{", b"[1]", b"3", b"[" * 100_000])
def test_what_is_no_json(root: Path, content: bytes) -> None:
    write(root, content)
    (message,) = failure(DataSettings(root=root)).splitlines()[1:]
    assert message.strip().startswith("annotations/instances_train2024.json: the ")
    assert "download or export the file again" in message
    write(root, document(), "val2024")
    assert "instances_train2024" not in failure(DataSettings(root=root), "val")  # its images are missing, no more


@pytest.mark.parametrize("segmentation", [None, [], {}, [[1, 2, 3, 4]], [[]]])
def test_empty_segmentations_are_tags_and_paint_nothing(root: Path, segmentation: Any) -> None:
    content = document()
    content["annotations"].append(annotation(15, 9, 40, segmentation=segmentation))
    write(root, content)
    (warning,) = problems(root)["bad-annotation"]
    assert warning.level == "warning"
    assert "an empty segmentation, or a polygon of fewer than 3 points (1): 15; they count as tags" in warning.message
    assert open_images(DataSettings(root=root)).by_id("p9").tags == (2,)
    assert not mask_of(DataSettings(root=root), "p9").any()
