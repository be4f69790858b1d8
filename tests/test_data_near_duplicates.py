"""Near duplicates, inseparable tags, masks that EXIF turns, and the summary of a data set."""

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tag2mask.data.images import write_mask
from tag2mask.data.settings import DataSettings
from tag2mask.data.validation import image_check
from tag2mask.data.validation.check import CheckReport, check
from tag2mask.data.validation.near_duplicates import MAX_BITS, ImageHashes, difference_hash, in_different_splits
from tag2mask.data.validation.tag_statistics import FEW, TagCounts


def landscape(seed: int, width: int = 96, height: int = 64) -> Image.Image:
    """Smooth patches of colour with some grain, each seed others."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (8, 12, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.int16)
    return Image.fromarray((smooth + rng.integers(-6, 7, smooth.shape)).clip(0, 255).astype(np.uint8))


def encoded_again(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, format="JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def bits_between(one: Image.Image, other: Image.Image) -> int:
    first, second = (difference_hash(np.asarray(image)) for image in (one, other))
    assert first is not None and second is not None
    return sum(int(value).bit_count() for value in first ^ second)


def write_table(root: Path, rows: Sequence[tuple[str, Image.Image, str, str]]) -> DataSettings:
    """A table of (file, image, tags, split)."""
    lines = ["image,tags,split"]
    for name, image, tags, split in rows:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        image.save(root / name)
        lines.append(f"{name},{tags},{split}")
    (root / "tags.csv").write_text("\n".join(lines) + "\n")
    return DataSettings(root=root)


def of_kind(report: CheckReport, kind: str) -> list[str]:
    return [str(problem) for problem in report.problems if problem.kind == kind]


def test_an_image_at_another_size_and_quality_looks_the_same_and_others_do_not() -> None:
    for seed in range(20):
        image = landscape(seed)
        assert bits_between(image, encoded_again(image.resize((60, 40)), 50)) <= MAX_BITS
        assert bits_between(image, image.point(lambda value: value * 0.8)) <= MAX_BITS
        assert bits_between(image, landscape(seed + 100)) > 2 * MAX_BITS
        assert bits_between(image, image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)) > 2 * MAX_BITS


def test_a_plain_image_has_no_hash() -> None:
    noise = np.random.default_rng(0).integers(126, 130, (64, 96, 3), dtype=np.uint8)
    assert difference_hash(noise) is None


def flipped(value: np.ndarray, bits: Sequence[int]) -> np.ndarray:
    changed = value.copy()
    for bit in bits:
        changed[bit // 64] ^= np.uint64(1 << bit % 64)
    return changed


def test_groups_are_those_of_comparing_every_pair() -> None:
    rng = np.random.default_rng(1)
    hashes = ImageHashes(900)
    for place in range(900):
        # A third is near an earlier one, by so few bits that the search promises to find it.
        near = place >= 600
        bits = rng.choice(128, int(rng.integers(0, 8)), replace=False) if near else ()
        base = hashes.hashes[place - 600] if near else rng.integers(0, 2**64, 2, dtype=np.uint64)
        hashes.put(place, flipped(base, bits) if place % 50 else None)
    found = [tuple(map(int, group)) for group in hashes.groups()]
    wanted = []
    for place in range(300):
        if place % 50 and (place + 600) % 50:
            wanted.append((place, place + 600))
    assert found == wanted


def test_different_splits_have_images_of_their_own() -> None:
    assert in_different_splits("train;both", "val;both")
    assert not in_different_splits("train", "train;trainval")  # a part and the whole
    assert not in_different_splits("", "val")  # an image of no split


def test_copies_across_splits_are_warned_about_and_copies_within_are_counted(tmp_path: Path) -> None:
    items = [landscape(seed) for seed in range(8)]
    rows = [(f"train/{n}.png", items[n], "cat" if n % 2 else "dog", "train") for n in range(6)]
    rows += [
        ("val/copy.png", encoded_again(items[2].resize((150, 100)), 60), "dog", "val"),
        ("val/own.png", items[6], "cat", "val"),
        ("train/again.png", items[4], "dog", "train"),
    ]
    settings = write_table(tmp_path, rows)
    report = check(settings)
    (warning,) = of_kind(report, "near-duplicate")
    assert "look the same in different splits (1): train/2 (train) ~ val/copy (val); figures" in warning
    assert "leave them out of one of the splits" in warning
    assert any("4 images in 2 groups" in note for note in report.notes)
    assert report.to_json()["near_duplicates"] == {
        "groups": 2,
        "images": 4,
        "across": 1,
        "named": ("train/2 (train) ~ val/copy (val)",),
        "unlike": 0,
        "unlike_named": (),
    }
    assert report.summary is not None and "look the same across splits" in str(report.summary)
    one = check(DataSettings(root=tmp_path, split="train"))
    assert not of_kind(one, "near-duplicate")
    assert any("2 images in 1 group: train/4 ~ train/again" in note for note in one.notes)


def test_splits_of_voc_lists_overlap(tmp_path: Path) -> None:
    (tmp_path / "JPEGImages").mkdir()
    lists = tmp_path / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    for number, seed in enumerate((1, 2, 1, 3)):
        landscape(seed).save(tmp_path / f"JPEGImages/{number}.jpg", quality=95 - number)
    (tmp_path / "tags.csv").write_text("image,tags\n" + "".join(f"{number},cat\n" for number in range(4)))
    (lists / "train.txt").write_text("0\n1\n")
    (lists / "val.txt").write_text("2\n3\n")
    (lists / "trainval.txt").write_text("0\n1\n2\n3\n")
    (warning,) = of_kind(check(DataSettings(root=tmp_path)), "near-duplicate")
    assert "(1): 0 (train) ~ 2 (val)" in warning


def test_hundreds_of_copies_are_a_few_words(tmp_path: Path) -> None:
    for number in range(14):
        landscape(number).save(tmp_path / f"source{number}.jpg")
    for number in range(140):
        target = tmp_path / "data" / ("cat" if number % 14 < 7 else "dog") / f"{number:03}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.hardlink_to(tmp_path / f"source{number % 14}.jpg")
    report = check(DataSettings(root=tmp_path / "data"))
    assert report.problems == ()
    (note,) = report.notes
    assert "140 images in 14 groups: " in note and note.count("~") == 5 and note.endswith("and 9 more")
    assert len(json.dumps(report.to_json())) < 3000


def test_parts_under_a_fixed_camera_are_no_copies(tmp_path: Path) -> None:
    plate = landscape(1)
    scratched = plate.copy()
    scratched.paste((255, 255, 255), (20, 20, 34, 34))
    assert 0 < bits_between(plate, scratched) <= MAX_BITS
    rows = [("a.png", plate, "pit", "train"), ("b.png", scratched, "", "val")]
    rows += [(f"{seed}.png", landscape(seed), "pit", "train") for seed in range(2, 5)]
    report = check(write_table(tmp_path, rows))
    assert not of_kind(report, "near-duplicate")
    assert any("as parts under a fixed camera do, groups: 1: a (train) ~ b" in n for n in report.notes)


def test_the_same_file_is_a_copy_whatever_its_tags(tmp_path: Path) -> None:
    rows = [(f"{seed}.png", landscape(seed), "pit", "train") for seed in range(4)]
    rows += [(f"again{seed}.png", landscape(seed), "", "test") for seed in range(4)]
    (warning,) = of_kind(check(write_table(tmp_path, rows)), "near-duplicate")
    assert "in different splits (4): 0 (train) ~ again0 (test)" in warning


def test_tags_that_are_never_apart_are_named_once() -> None:
    both, one = [(1, 2)] * 6, [(2,)] * 3
    counts = TagCounts(["rider", "horse", "cat"], [*both, *one, (3,)])
    assert counts.by_name() == {"rider": 6, "horse": 9, "cat": 1}
    assert counts.inseparable() == [("rider", "horse")]
    assert TagCounts(["rider", "horse", "cat"], [*both, (3,)]).inseparable() == [("rider", "horse")]
    assert TagCounts(["rider", "horse"], [*both, *one, (1,)]).inseparable() == []
    everywhere = TagCounts(["rider", "horse"], [*both, *one])
    assert everywhere.inseparable() == []  # the other one is everywhere, which is its own warning
    assert everywhere.everywhere() == ["horse"]
    kinds = [problem.kind for problem in counts.problems("data")]
    assert kinds == ["few-images", "inseparable-tags"]


@pytest.mark.parametrize(
    ("counts", "worth", "reason"),
    [
        ((FEW, FEW + 5), "yes", f"2 classes with {FEW} to {FEW + 5} images each"),
        ((FEW - 1, FEW), "doubtful", f"fewer than {FEW} images of cat"),
        ((FEW - 1, 3), "no", f"fewer than {FEW} images of dog, cat"),
    ],
)
def test_the_summary_follows_the_counts(tmp_path: Path, counts: tuple[int, int], worth: str, reason: str) -> None:
    for name, count in zip(("cat", "dog"), counts, strict=True):
        (tmp_path / name).mkdir()
        for number in range(count):
            landscape(len(name) * 1000 + number + (name == "dog") * 100, 40, 40).save(tmp_path / name / f"{number}.png")
    report = check(DataSettings(root=tmp_path))
    assert report.summary is not None
    assert report.summary.worth == worth
    assert reason in str(report.summary)
    assert report.render().splitlines()[-1] == str(report.summary)


def test_a_set_that_cannot_be_opened_is_not_worth_training(tmp_path: Path) -> None:
    report = check(DataSettings(root=tmp_path))
    assert report.summary is not None and report.summary.worth == "no"
    assert "cannot be opened" in str(report.summary)


def turned_root(tmp_path: Path, orientation: int, mask: tuple[int, int]) -> CheckReport:
    """The check of one image with an EXIF orientation, 96 × 64 pixels or as square as its mask of (H, W)."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    (tmp_path / "cat").mkdir()
    landscape(0, 96, 96 if mask == (96, 96) else 64).save(tmp_path / "cat/a.jpg", exif=exif)
    write_mask(tmp_path / "masks/cat/a.png", np.ones(mask, dtype=np.uint8))
    return check(DataSettings(root=tmp_path, masks=tmp_path / "masks"))


def test_a_mask_drawn_before_exif_turned_the_image(tmp_path: Path) -> None:
    (problem,) = of_kind(turned_root(tmp_path, 6, (64, 96)), "mask-size")
    assert "the mask is 96 × 64 pixels, its image 64 × 96" in problem
    assert "EXIF turns the image (orientation 6), so turn the mask likewise" in problem


@pytest.mark.parametrize(
    ("orientation", "mask", "kinds"),
    [
        (6, (96, 64), []),
        (6, (96, 96), ["mask-turn"]),
        (3, (64, 96), ["mask-turn"]),
        (1, (64, 96), []),
        (1, (96, 64), ["mask-size"]),
    ],
)
def test_a_mask_whose_size_says_nothing(
    tmp_path: Path, orientation: int, mask: tuple[int, int], kinds: list[str]
) -> None:
    report = turned_root(tmp_path, orientation, mask)
    assert [problem.kind for problem in report.problems if "mask" in problem.kind] == kinds
    assert "EXIF" not in " ".join(of_kind(report, "mask-size"))


def test_an_enormous_image_is_named_by_what_it_would_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cat").mkdir()
    landscape(0, 300, 200).save(tmp_path / "cat/large.jpg")
    landscape(1, 100, 90).save(tmp_path / "cat/usual.jpg")
    limit = DataSettings(root=tmp_path, pixel_limit=100_000)
    (problem,) = of_kind(check(limit), "large-image")
    assert problem.startswith("cat/large.jpg: 300 × 200 pixels")
    monkeypatch.setattr(image_check, "memory", lambda: (4_000_000, None))  # bytes
    assert len(of_kind(check(DataSettings(root=tmp_path)), "large-image")) == 1
    monkeypatch.setattr(image_check, "memory", lambda: (None, None))
    assert not of_kind(check(DataSettings(root=tmp_path)), "large-image")
