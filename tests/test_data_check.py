"""The check: everything that is wrong is listed, each in one line, and nothing stops it."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hostile_images import png
from tag2mask.data.dataset import open_images
from tag2mask.data.images import write_mask
from tag2mask.data.settings import DataSettings
from tag2mask.data.validation.check import CheckReport, check
from tag2mask.data.validation.tag_statistics import FEW
from test_data_readers import voc_root


def write_image(path: Path, height: int = 48, width: int = 64) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(path.name)).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def by_kind(report: CheckReport) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for problem in report.problems:
        found.setdefault(problem.kind, []).append(str(problem))
    return found


@pytest.fixture
def broken(tmp_path: Path) -> DataSettings:
    """A data set in which nearly everything is wrong that can be."""
    root = tmp_path / "data"
    good = [f"good{number}.jpg" for number in range(3)]
    broken = ["empty.jpg", "cut.jpg", "words.jpg", "bomb.png", "float.tif", "same.jpg", "same.png", "misspelt.jpg"]
    for name in [*good, "cut.jpg", "same.jpg", "same.png", "misspelt.jpg", "untagged.jpg", "tiny.png", "spare.jpg"]:
        write_image(root / "images" / name, *((8, 8) if name == "tiny.png" else ()))
    (root / "images" / "empty.jpg").touch()
    (root / "images" / "words.jpg").write_text("These are words.\n")
    cut = root / "images" / "cut.jpg"
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    (root / "images" / "bomb.png").write_bytes(png(50_000, 50_000))
    Image.fromarray(np.ones((40, 40), dtype=np.float32)).save(root / "images" / "float.tif")
    tags = {"misspelt.jpg": "dgo"}
    lines = ["image,tags", *(f"images/{name},{tags.get(name, 'dog;cat')}" for name in [*good, *broken])]
    lines += ["images/untagged.jpg,", "images/tiny.png,cat", "images/gone.jpg,cat", "../secret.jpg,cat"]
    lines += ["images/good0.jpg,cat,dog", ",cat", "images/sp\xe4t.jpg,cat"]
    (root / "tags.csv").write_bytes("\n".join(lines).encode("latin-1"))
    for name in ("good0", "good1", "good2", "untagged"):
        write_mask(tmp_path / "masks" / "images" / f"{name}.png", np.zeros((48, 64), dtype=np.uint8))
    write_mask(tmp_path / "masks" / "images" / "good0.png", np.zeros((48, 60), dtype=np.uint8))
    write_mask(tmp_path / "masks" / "images" / "good1.png", np.full((48, 64), 3, dtype=np.uint8))
    write_image(tmp_path / "masks" / "images" / "good2.png")
    return DataSettings(root=root, masks=tmp_path / "masks", classes="cat,dog")


EXPECTED = {
    "unknown-tag": ["tags.csv line 12: the tag `dgo` is not in the class list (1 image); did you mean `dog`?"],
    "duplicate-id": ["tags.csv line 11: images/same.jpg and images/same.png have one ID, `images/same`"],
    "missing-image": ["tags.csv line 15: the image images/gone.jpg does not exist"],
    "outside-root": ["tags.csv line 16: `../secret.jpg` lies outside the root"],
    "bad-row": ["tags.csv line 17: 3 columns instead of 2", "tags.csv line 18: the line names no image"],
    "encoding": ["tags.csv line 19: the line is not UTF-8"],
    "empty-image": ["images/empty.jpg: the file is empty"],
    "damaged-image": ["images/cut.jpg: the file is cut off or damaged"],
    "not-an-image": ["images/words.jpg: not an image, whatever its name says"],
    "pixel-limit": ["images/bomb.png: 50000 × 50000 pixels, at most 100,000,000 are allowed"],
    "unsupported-image": ["images/float.tif: floating-point pixels"],
    "mask-size": ["masks/images/good0.png: the mask is 60 × 48 pixels, its image 64 × 48"],
    "mask-values": ["masks/images/good1.png: the values 3 are not classes; 0 is background, 1..2 the classes"],
    "mask-format": ["masks/images/good2.png: its pixels are of the kind RGB"],
    "truth-tags": ["ground truth and tags do not fit: 0 of 4 tags are in the mask of their image (not"],
    # warnings
    "few-images": ["classes with fewer than 20 images (2): dog (10), cat (11)"],
    "inseparable-tags": ["the tag `dog` (10×) never occurs without `cat` (11×), so the two are hard to tell apart"],
    "small-image": ["images/tiny.png: 8 × 8 pixels are very few"],
    "unlisted-image": ["images next to the listed ones that are not in the table (1): images/spare.jpg"],
}


def test_every_problem_gives_one_clear_line(broken: DataSettings) -> None:
    report = check(broken)
    found = by_kind(report)
    missing_masks = found.pop("missing-mask")
    assert len(missing_masks) == 9
    assert found.keys() == EXPECTED.keys()
    for kind, starts in EXPECTED.items():
        assert len(found[kind]) == len(starts), kind
        for line, start in zip(found[kind], starts, strict=True):
            assert start in line
    assert all("\n" not in str(problem) for problem in report.problems)
    assert not report.sound
    assert (len(report.errors), len(report.warnings)) == (16, 13)
    assert (report.images, report.untagged, report.masks) == (13, 1, 4)
    assert report.counts == {"cat": 11, "dog": 10}
    assert any("1 image has no tags (first: tags.csv line 13)" in note for note in report.notes)


def test_text_and_json_say_the_same(broken: DataSettings) -> None:
    report = check(broken)
    text = report.render()
    assert all(str(problem) in text for problem in report.problems)
    assert "images: 13, without tags: 1, with a ground-truth mask: 4" in text
    assert text.index("16 errors") < text.index("13 warnings")
    values = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert values["sound"] is False
    assert values["counts"] == {"cat": 11, "dog": 10}
    assert [problem["message"] for problem in values["problems"]] == [item.message for item in report.problems]
    assert {"level", "kind", "subject", "message"} == values["problems"][0].keys()
    assert "… and 8 more of the kind missing-mask" in report.render(shown=1)


def test_order_does_not_depend_on_threads(broken: DataSettings) -> None:
    calls: list[tuple[int, int]] = []
    alone = check(broken, threads=1, progress=lambda done, total: calls.append((done, total)))
    assert alone == check(broken, threads=4)
    assert calls == [(done, 13) for done in range(1, 14)]


@pytest.mark.parametrize("table", [b"photo,tags\na.jpg,cat\n", "image,tags\n".encode("utf-16"), b"", b"image,f\xfc\n"])
def test_an_unusable_table_does_not_hide_broken_images(broken: DataSettings, table: bytes) -> None:
    assert broken.root is not None
    (broken.root / "tags.csv").write_bytes(table)
    found = by_kind(check(broken))
    assert len(found.get("bad-table", []) + found.get("encoding", [])) == 1
    assert {"empty-image", "damaged-image", "not-an-image", "pixel-limit", "unsupported-image"} <= found.keys()
    assert "no-images" not in found


def test_misspelt_tags_without_a_class_list_are_warned_about(tmp_path: Path) -> None:
    lines = ["image,tags"]
    for number in range(30):
        write_image(tmp_path / f"{number}.png", 32, 32)
        lines.append(f"{number}.png,{'hosre' if number == 7 else 'Dog;horse' if number == 8 else 'horse;dog'}")
    (tmp_path / "tags.csv").write_text("\n".join(lines))
    report = check(DataSettings(root=tmp_path))
    assert report.sound
    assert report.classes == ("Dog", "dog", "horse", "hosre")
    assert by_kind(report)["similar-tags"] == [
        f"tags.csv line {line}: the tag {pair}; correct it, or give data.classes if both are meant"
        for line, pair in ((10, "`Dog` (1×) looks like `dog` (28×)"), (9, "`hosre` (1×) looks like `horse` (29×)"))
    ]


def test_class_folders(tmp_path: Path) -> None:
    for name in ("cat/a.jpg", "dog/b.jpg", "train/c.jpg", "stray.jpg"):
        write_image(tmp_path / name)
    (tmp_path / "cat" / "notes.txt").touch()
    found = by_kind(check(DataSettings(root=tmp_path)))
    assert found.keys() == {"outside-class-folder", "unlikely-class", "ignored-file", "few-images"}
    assert "cat/notes.txt" in found["ignored-file"][0]


def test_classes_without_images_and_a_missing_mask_folder(tmp_path: Path) -> None:
    write_image(tmp_path / "cat" / "a.jpg")
    report = check(DataSettings(root=tmp_path, classes="zebra,cat", masks=tmp_path / "gone"))
    assert [(problem.kind, problem.level) for problem in report.problems] == [
        ("missing-mask", "error"),
        ("empty-class", "warning"),
        ("few-images", "warning"),
    ]
    assert "classes without an image (1): zebra" in report.problems[1].message


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        (DataSettings(), "bad-root"),
        (DataSettings(root=Path("gone")), "bad-root"),
        (DataSettings(tags=Path("gone.csv")), "bad-table"),
    ],
)
def test_nothing_to_check_is_a_problem_and_no_exception(settings: DataSettings, kind: str) -> None:
    report = check(settings)
    assert [problem.kind for problem in report.problems] == [kind]
    assert report.render()


def test_voc_lists_are_checked_together(tmp_path: Path) -> None:
    root = voc_root(tmp_path)
    for name, ids in {"2007_000001": (12, 15), "2007_000002": (8,), "2008_000003": (12,)}.items():
        write_image(root / "JPEGImages" / f"{name}.jpg")
        mask = np.resize(np.array([0, *ids], dtype=np.uint8), (48, 64))
        write_mask(root / "SegmentationClassAug" / f"{name}.png", mask)
    report = check(DataSettings(root=root))
    assert report.sound
    assert report.splits == {"train": 1, "val": 1, "train_aug": 2}
    assert report.masks == 3
    lists = root / "ImageSets" / "Segmentation"
    (lists / "train.txt").write_text("2007_000001\n2007_000002\n2009_000009\n")
    report = check(DataSettings(root=root))
    assert "ImageSets/Segmentation/train.txt line 3: JPEGImages/2009_000009.jpg does not exist" in str(report.errors[0])
    overlap = by_kind(report)["split-overlap"]
    assert "images that are in `val` too, which makes its figures worthless (1): 2007_000002" in overlap[0]
    report = check(DataSettings(root=root, split="gone"))
    assert by_kind(report).keys() == {"bad-split"}
    assert report.images == 3  # the images are opened all the same


def test_names_that_no_terminal_can_show_stay_one_line(tmp_path: Path) -> None:
    names = ["two\nlines.jpg", "\x1b[31mred.jpg", "latin-\udce4.jpg"]
    write_image(tmp_path / "cat" / "a.jpg")
    for name in names:
        (tmp_path / "cat" / name).touch()
    report = check(DataSettings(root=tmp_path))
    assert len(report.errors) == 3
    shown = [problem.subject for problem in report.errors]
    assert shown == ["cat/\\x1b[31mred.jpg", "cat/latin-\\udce4.jpg", "cat/two\\nlines.jpg"]
    report.render().encode("utf-8")


def test_what_passes_the_check_can_be_opened(tmp_path: Path) -> None:
    for number in range(FEW):
        write_image(tmp_path / "cat" / f"{number:{number + 1}}.png", 32, 32)  # the pixels follow from the name's length
        write_image(tmp_path / "dog" / f"{number:{number + 31}}.png", 32, 32)
    settings = DataSettings(root=tmp_path)
    report = check(settings)
    assert report.problems == ()
    assert report.render().splitlines()[-2] == "no problems"
    assert report.summary is not None and report.summary.worth == "yes"
    assert open_images(settings).classes == report.classes
