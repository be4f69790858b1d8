"""Readers: tables, class folders, VOC roots, class lists. Nothing is opened, so files are empty here."""

import csv
import io
import ntpath
import pickle
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_sets import failure
from tag2mask.core.errors import UsageError
from tag2mask.data.classes import folded_name, nearest_name, read_classes, similar_names
from tag2mask.data.dataset import ImageItem, ImageSet, find_images, open_images, survey
from tag2mask.data.file_names import nfc
from tag2mask.data.readers.image_paths import path_inside
from tag2mask.data.readers.scan import walk_files
from tag2mask.data.readers.table import Table, read_table
from tag2mask.data.readers.table_cells import NOTHING
from tag2mask.data.readers.table_columns import NOT_CLASSES, TAG_NAMES
from tag2mask.data.readers.voc import VOC_CLASSES
from tag2mask.data.settings import AugmentSettings, DataSettings


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def table(root: Path, text: str, *names: str) -> Path:
    touch(root, *names)
    (root / "tags.csv").write_text(text, encoding="utf-8")
    return root


def named(images: ImageSet) -> dict[str, list[str]]:
    return {item.id: [images.classes[number - 1] for number in item.tags] for item in images.items}


# Tables


def test_table_gives_sorted_classes_and_relative_ids(tmp_path: Path) -> None:
    table(tmp_path, "image,tags\nin/b.x.jpg,dog; cat\na.png,cat\n", "in/b.x.jpg", "a.png")
    images = open_images(DataSettings(root=tmp_path))
    assert images.classes == ("cat", "dog")
    assert [(item.id, item.tags, item.path) for item in images.items] == [
        ("in/b.x", (1, 2), tmp_path / "in/b.x.jpg"),
        ("a", (1,), tmp_path / "a.png"),
    ]
    assert images.tag_matrix().tolist() == [[True, True], [True, False]]
    assert images.tag_matrix(images.items[1:]).tolist() == [[True, False]]
    assert images.by_id("a").path.name == "a.png"
    with pytest.raises(UsageError, match=r"has the ID `in/b`; did you mean `in/b\.x`"):
        images.by_id("in/b")


@pytest.mark.parametrize("bom", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_table_of_ones_and_zeros(tmp_path: Path, bom: str, end: str) -> None:
    lines = ["Image,dog,cat,straße", "a.jpg,1,0,1", '"b,1.jpg", 0 ,1,0', ""]
    (tmp_path / "tags.csv").write_bytes((bom + end.join(lines)).encode())
    touch(tmp_path, "a.jpg", "b,1.jpg")
    images = open_images(DataSettings(root=tmp_path))
    assert images.classes == ("cat", "dog", "straße")
    assert named(images) == {"a": ["dog", "straße"], "b,1": ["cat"]}


def test_a_table_alone_is_relative_to_itself_and_data_root_overrides(tmp_path: Path) -> None:
    table(tmp_path / "one", "image,tags\na.jpg,cat\n", "a.jpg")
    touch(tmp_path / "two", "a.jpg")
    tags = tmp_path / "one" / "tags.csv"
    assert open_images(DataSettings(tags=tags)).items[0].path == tmp_path / "one" / "a.jpg"
    assert open_images(DataSettings(tags=tags, root=tmp_path / "two")).items[0].path == tmp_path / "two" / "a.jpg"


def test_split_column_selects_lines_but_not_classes(tmp_path: Path) -> None:
    text = "image,tags,split,author\na.jpg,cat,train,me\nb.jpg,dog,val,you\n"
    table(tmp_path, text, "a.jpg", "b.jpg")
    settings = DataSettings(root=tmp_path, split="train")
    assert named(open_images(settings)) == {"a": ["cat"]}
    assert named(open_images(settings, split="val")) == {"b": ["dog"]}
    assert open_images(settings).classes == open_images(settings, split="val").classes == ("cat", "dog")
    assert survey(settings).listing.splits == {"train": 1, "val": 1}
    message = failure(settings, split="trian")
    assert "no line has the split `trian`, there are train, val; did you mean `train`?" in message
    table(tmp_path, "image,tags\na.jpg,cat\n")
    assert "there is no column `split` to find `val` in" in failure(settings, split="val")
    touch(tmp_path, "folders/cat/a.jpg")
    assert "class folders have no split `val`" in failure(DataSettings(root=tmp_path / "folders"), split="val")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: the column `image` is missing, the file is empty"),
        ("photo,tags\n", "line 1: the column `image` is missing, it has `photo`, `tags`"),
        ("image|tags\na.jpg|cat\n", "columns are separated by commas"),
        ("image\na.jpg\n", "the column `tags` is missing"),
        ("image,cat,Cat\n", "a column is named twice: cat, Cat"),
        ("image,cat,\n", "a column has no name"),
        ("image,tags\na.jpg,cat,dog\n", "line 2: 3 columns instead of 2; several tags are joined by `;`"),
        ("image,tags\n ,cat\n", "line 2: the line names no image"),
        ("image,cat,dog\na.jpg,1,yes\n", "line 2: a class column should hold 0 or 1, here `dog` = `yes`"),
        ("image,kind\na.jpg,cat\n", "for tags in words, call their column `tags`"),
        ('image,tags\n"a.jpg"x,cat\n', "line 2: the line is not CSV"),
        ('image,tags\n"a.jpg,cat\n', "line 2: the line is not CSV"),
        ("image,tags\n\n../c.jpg,cat\n", "line 3: `../c.jpg` lies outside the root"),
        ("image,tags\n/etc/c.jpg,cat\n", "`/etc/c.jpg` lies outside the root"),
        ("image,tags\n", "there are no images"),
        ("image,tags\na.JPG,cat\n", "line 2: the image a.JPG does not exist; did you mean a.jpg?"),
        ("image,tags\nb/a.jpg,cat\n", "line 2: the image b/a.jpg does not exist; add the image"),
        ("image,tags\na,cat\n", "did you mean a.jpg?"),
        ("image,tags\na.jpg,cat\na.jpg,dog\n", "line 3: a.jpg is listed twice (before: tags.csv line 2)"),
        ("image,tags\na.jpg,cat\na.png,dog\n", "a.jpg and a.png have one ID, `a`"),
        ("image,tags\na.jpg,background\n", "background has id 0 by itself"),
        ("image,tags\na.jpg,\n", "no image has a tag"),
    ],
)
def test_faulty_tables_say_where_and_what(tmp_path: Path, text: str, message: str) -> None:
    table(tmp_path, text, "a.jpg", "a.png")
    assert message in failure(DataSettings(root=tmp_path, kind="table"))


def test_encodings(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "b.jpg")
    (tmp_path / "tags.csv").write_bytes("image,tags\na.jpg,cat\nb.jpg,f\xfcchse\n".encode("latin-1"))
    assert "tags.csv line 3: the line is not UTF-8" in failure(DataSettings(root=tmp_path))
    (tmp_path / "tags.csv").write_bytes("image,tags\na.jpg,cat\n".encode("utf-16"))
    assert "null bytes, as UTF-16" in failure(DataSettings(root=tmp_path))
    (tmp_path / "tags.csv").write_bytes("image,f\xfcchse\na.jpg,1\n".encode("latin-1"))
    assert failure(DataSettings(root=tmp_path)).count("\n") == 1


def test_all_problems_are_raised_together_five_of_a_kind(tmp_path: Path) -> None:
    lines = [f"{number}.jpg,cat" for number in range(9)]
    table(tmp_path, "\n".join(["image,tags", *lines, "a.jpg,dgo", "b.jpg,cat,dog", "c.jpg,dog"]), "a.jpg", "c.jpg")
    message = failure(DataSettings(root=tmp_path, classes="cat,dog"))
    assert message.startswith(f"{tmp_path} cannot be used, 11 problems (`tag2mask check {tmp_path}` lists everything):")
    assert message.count("does not exist") == 5
    assert "… and 4 more of the kind missing-image" in message
    assert "tags.csv line 11: the tag `dgo` is not in the class list (1 image); did you mean `dog`?" in message
    assert "tags.csv line 12: 3 columns instead of 2" in message


def test_paths_inside_the_root_are_read_however_they_are_written(tmp_path: Path) -> None:
    lines = ["in\\a.jpg", "in/../b.jpg", "./in//c.jpg", f"{tmp_path}/in/d.jpg"]
    text = "image,tags\n" + "".join(f"{line},cat\n" for line in lines)
    table(tmp_path, text, "in/a.jpg", "b.jpg", "in/c.jpg", "in/d.jpg")
    assert list(named(open_images(DataSettings(root=tmp_path)))) == ["in/a", "b", "in/c", "in/d"]


@given(st.lists(st.sampled_from(["a", "..", ".", "b.jpg", ""]), min_size=1, max_size=6).map("/".join))
def test_no_path_escapes(name: str) -> None:
    inside = path_inside(name, "/data/root")
    climbed = depth = 0
    parts: list[str] = []
    for part in name.split("/") if not name.startswith("/") else [".."] * 9:
        if part == "..":
            depth -= 1
            climbed = min(climbed, depth)
            parts = parts[:-1]
        elif part not in ("", "."):
            depth += 1
            parts.append(part)
    # Going up out of the root and down again can only end inside by naming the root's own folders, which are not drawn.
    assert inside == (None if climbed < 0 or not parts else "/".join(parts))


@pytest.mark.parametrize(
    ("name", "below"),
    [
        (r"cat\one.jpg", "cat/one.jpg"),
        ("cat/one.jpg", "cat/one.jpg"),
        (r"C:\data\cat\one.jpg", "cat/one.jpg"),
        (r"D:\data\cat\one.jpg", None),
        (r"\\server\data\one.jpg", None),
        (r"..\one.jpg", None),
        (r"C:\data2\one.jpg", None),
    ],
)
def test_paths_of_windows_below_a_root(name: str, below: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tag2mask.data.readers.image_paths.os", SimpleNamespace(path=ntpath, sep=ntpath.sep))
    assert path_inside(name, r"C:\data") == below


WORDS = (
    st.text(
        st.characters(exclude_categories=("C", "Z"), exclude_characters=";,|[{0\ufffd\ufeff"), min_size=1, max_size=9
    )
    .map(nfc)
    .filter(lambda word: folded_name(word) not in NOTHING | NOT_CLASSES | TAG_NAMES)  # read otherwise, as 0 is
)


@given(st.lists(st.tuples(WORDS, st.lists(WORDS, max_size=4, unique=True)), max_size=6), st.booleans())
def test_any_table_that_csv_writes_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, list[str]]], ones: bool
) -> None:
    columns = sorted(
        {tag for _, tags in rows for tag in tags if tag.lower() not in ("image", "split", "tags", "suggested")}
    )
    folded = {name.lower() for name in columns}
    ones = ones and bool(columns) and len(folded) == len(columns)
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer)
    writer.writerow(["image", *columns] if ones else ["image", "tags"])
    for image, tags in rows:
        writer.writerow([image, *(int(name in tags) for name in columns)] if ones else [image, ";".join(tags)])
    path = tmp_path_factory.mktemp("table") / "tags.csv"
    path.write_bytes(buffer.getvalue().encode())
    table = Table("tags.csv")
    read = list(read_table(path, table))
    assert not table.problems
    expected = [
        (image, tuple(name for name in columns if name in tags) if ones else tuple(tags)) for image, tags in rows
    ]
    assert [(row.image, row.tags) for row in read] == expected


# Class lists


def test_class_list_fixes_the_order_and_may_hold_more(tmp_path: Path) -> None:
    table(tmp_path, "image,tags\na.jpg,cat;dog\n", "a.jpg")
    images = open_images(DataSettings(root=tmp_path, classes="zebra, dog ,cat"))
    assert images.classes == ("zebra", "dog", "cat")
    assert images.items[0].tags == (2, 3)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.txt", "# ours\nno\n\ntraffic light\n1\n"),
        ("c.names", "\ufeffno\r\ntraffic light\r\n1"),
        ("c.yaml", "- no\n- traffic light\n- 1\n"),
        ("c.json", '["no", "traffic light", "1"]'),
    ],
)
def test_class_files(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert read_classes(str(tmp_path / name)) == (("no", "traffic light", "1"), [])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("nowhere.txt", "nowhere.txt: the class list could not be read"),
        ("cat,,dog", "a class has no name"),
        ("", "the class list is empty"),
        ("cat,dog,cat", "named twice: cat"),
        ("Background,cat", "background has id 0 by itself"),
        (",".join(f"c{number}" for number in range(255)), "255 classes (c0, c1, c2, c3, c4 and 250 more), at most 254"),
        ("cat;dog,cow", "`;` joins tags and cannot be in a name"),
        ("ROOT/c.yaml", "it is not a list of names"),
        ("ROOT/d.yaml", "expected ',' or ']'"),
    ],
)
def test_faulty_class_lists(tmp_path: Path, value: str, message: str) -> None:
    table(tmp_path, "image,tags\na.jpg,cat\n", "a.jpg")
    (tmp_path / "c.yaml").write_text("cat: 1\n")
    (tmp_path / "d.yaml").write_text("[cat")
    assert message in failure(DataSettings(root=tmp_path, classes=value.replace("ROOT", str(tmp_path))))


def test_exactly_254_classes_are_possible(tmp_path: Path) -> None:
    table(tmp_path, "image,tags\na.jpg,c7\n", "a.jpg")
    names = ",".join(f"c{number}" for number in range(254))
    assert len(open_images(DataSettings(root=tmp_path, classes=names)).classes) == 254


@pytest.mark.parametrize(("name", "near"), [("hosre", "horse"), ("Horse", "horse"), ("dining table", "diningtable")])
def test_nearest_name(name: str, near: str) -> None:
    assert nearest_name(name, VOC_CLASSES) == near
    assert nearest_name("xylophone", VOC_CLASSES) is None


def test_similar_names_are_rare_next_to_frequent() -> None:
    counts = {"horse": 40, "hosre": 1, "cow": 30, "crow": 25, "dog": 3, "Dog": 4, "sofa": 1}
    assert set(similar_names(counts)) == {("hosre", "horse"), ("dog", "Dog")}


# Class folders


def test_folders(tmp_path: Path) -> None:
    names = ["dog/a.jpg", "cat/a.JPG", "cat/in/a.png", "cat/.hidden.jpg", ".git/x.jpg", "cat/notes.txt", "m/cat/a.png"]
    touch(tmp_path, *names)
    images = open_images(DataSettings(root=tmp_path, masks=tmp_path / "m"))
    assert named(images) == {"cat/a": ["cat"], "cat/in/a": ["cat"], "dog/a": ["dog"]}
    assert images.by_id("cat/a").truth == tmp_path / "m/cat/a.png"
    assert images.by_id("dog/a").truth is None


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["cat/a.jpg", "b.jpg"], "b.jpg: an image lies next to the class folders"),
        (["cat/a.jpg", "cat/a.png"], "cat/a.jpg and cat/a.png have one ID, `cat/a`"),
        (["cat/notes.txt"], "there are no images"),
    ],
)
def test_faulty_folders(tmp_path: Path, names: list[str], message: str) -> None:
    touch(tmp_path, *names)
    assert message in failure(DataSettings(root=tmp_path))


def test_linked_folders_are_read_but_loops_end(tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/a.jpg", "root/dog/b.jpg")
    (tmp_path / "root" / "cat").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "loop").symlink_to(tmp_path / "root")
    names = [name for name, _ in walk_files(tmp_path / "root")]
    assert names == ["cat/a.jpg", "dog/b.jpg"]


def test_find_images_needs_no_tags(tmp_path: Path) -> None:
    touch(tmp_path, "b.jpg", "in/a.png", "notes.txt", "RUN/masks/b.png")
    images = find_images(tmp_path, skip=tmp_path / "RUN")
    assert [item.id for item in images.items] == ["b", "in/a"]
    assert (images.classes, images.root, images.tag_matrix().shape) == ((), tmp_path, (2, 0))
    assert find_images(tmp_path / "in" / "a.png").items[0].id == "a"
    for folder, message in {"gone": "does not exist", "empty": "no image below it"}.items():
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(UsageError, match=message):
            find_images(tmp_path / folder)
    touch(tmp_path, "b.png")
    with pytest.raises(UsageError, match=r"b\.jpg and b\.png have one ID"):
        find_images(tmp_path)


# VOC roots


def annotate(root: Path, image_id: str, *objects: str) -> None:
    part = "<part><name>head</name></part>"
    found = "".join(
        f"<object><name>{name}</name><difficult>{number % 2}</difficult>{part}</object>"
        for number, name in enumerate(objects)
    )
    touch(root, f"JPEGImages/{image_id}.jpg", f"Annotations/{image_id}.xml")
    (root / "Annotations" / f"{image_id}.xml").write_text(f"<annotation><filename/>{found}</annotation>")


def voc_root(root: Path) -> Path:
    annotate(root, "2007_000001", "person", "dog", "person")
    annotate(root, "2007_000002", "cat")
    annotate(root, "2008_000003", "dog")
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2007_000001\n")
    (lists / "val.txt").write_text("/JPEGImages/2007_000002.jpg /SegmentationClassAug/2007_000002.png\n")
    touch(root, "SegmentationClass/2007_000001.png", "SegmentationClass/2007_000002.png")
    touch(root, *(f"SegmentationClassAug/{name}.png" for name in ("2007_000001", "2007_000002", "2008_000003")))
    return root


def test_voc_tags_come_from_all_objects(tmp_path: Path) -> None:
    settings = DataSettings(root=voc_root(tmp_path))
    train = open_images(settings, split="train")
    assert train.classes == VOC_CLASSES
    assert train.classes[11] == "dog"
    assert (train.items[0].id, train.items[0].tags) == ("2007_000001", (12, 15))
    assert named(open_images(settings, split="val")) == {"2007_000002": ["cat"]}
    assert list(named(open_images(settings))) == ["2007_000001", "2007_000002", "2008_000003"]


def test_train_aug_is_derived_only_where_no_list_exists(tmp_path: Path) -> None:
    settings = DataSettings(root=voc_root(tmp_path))
    assert list(named(open_images(settings, split="train_aug"))) == ["2007_000001", "2008_000003"]
    (tmp_path / "ImageSets/Segmentation/train_aug.txt").write_text("2008_000003\n")
    assert list(named(open_images(settings, split="train_aug"))) == ["2008_000003"]


def test_train_aug_without_its_masks_is_explained(tmp_path: Path) -> None:
    root = voc_root(tmp_path)
    (root / "SegmentationClassAug").rename(root / "elsewhere")
    message = failure(DataSettings(root=root, split="train_aug"))
    assert "there is no list train_aug.txt, there are train, val" in message
    assert "SegmentationClassAug/ with the masks and the list val.txt are needed" in message


def test_voc_masks_prefer_the_augmented_ones(tmp_path: Path) -> None:
    root = voc_root(tmp_path)
    settings = DataSettings(root=root)
    (root / "SegmentationClassAug" / "2007_000002.png").unlink()
    masks = {item.id: item.truth and item.truth.parent.name for item in open_images(settings).items}
    assert masks == {
        "2007_000001": "SegmentationClassAug",
        "2007_000002": "SegmentationClass",
        "2008_000003": "SegmentationClassAug",
    }
    settings.masks = root / "SegmentationClass"
    assert open_images(settings).by_id("2008_000003").truth is None


@pytest.mark.parametrize("key", ["{}", "JPEGImages/{}.jpg", "{}.jpg", "/JPEGImages/{}.jpg"])
def test_a_tags_table_overrides_the_annotations(tmp_path: Path, key: str) -> None:
    root = voc_root(tmp_path)
    (tmp_path / "ours.csv").write_text(f"image,tags\n{key.format('2007_000001')},cow\n")
    settings = DataSettings(root=root, tags=tmp_path / "ours.csv", split="train")
    assert named(open_images(settings)) == {"2007_000001": ["cow"]}
    assert open_images(settings).classes == VOC_CLASSES
    message = failure(settings, split="val")
    assert "ours.csv: 2007_000002 has no line; add `JPEGImages/2007_000002.jpg,TAGS`" in message


def test_voc_class_list_can_be_replaced(tmp_path: Path) -> None:
    settings = DataSettings(root=voc_root(tmp_path), classes="dog,person", split="train")
    assert open_images(settings).items[0].tags == (1, 2)
    assert "the tag `cat` is not in the class list" in failure(settings, split="val")


def test_voc_without_annotations_needs_a_table(tmp_path: Path) -> None:
    touch(tmp_path, "JPEGImages/a.jpg")
    message = failure(DataSettings(root=tmp_path))
    assert "a VOC root without Annotations/ has no tags; give a tags table as data.tags" in message
    assert message.count("\n") == 1
    (tmp_path / "tags.csv").write_text("image,tags\na,cat\n")
    assert named(open_images(DataSettings(root=tmp_path))) == {"a": ["cat"]}


def test_faulty_voc_roots(tmp_path: Path) -> None:
    root = voc_root(tmp_path)
    lists = root / "ImageSets" / "Segmentation"
    (lists / "bad.txt").write_text("2007_000001\n2009_000009\n\n2007_000001\n2007_000002\n")
    (root / "Annotations" / "2007_000001.xml").write_text("<annotation><object>")
    (root / "Annotations" / "2007_000002.xml").unlink()
    message = failure(DataSettings(root=root, split="bad"))
    assert "ImageSets/Segmentation/bad.txt line 2: the image JPEGImages/2009_000009.jpg does not exist" in message
    assert "bad.txt line 4: 2007_000001 is listed twice, first on line 1" in message
    assert "Annotations/2007_000001.xml: the annotation could not be read as XML" in message
    assert "Annotations/2007_000002.xml: the image has no annotation" in message
    assert "there is no list trainval.txt" in failure(DataSettings(root=root, split="trainval"))


def test_tags_never_come_from_masks(tmp_path: Path) -> None:
    root = voc_root(tmp_path)
    before = named(open_images(DataSettings(root=root, split="train_aug")))
    for path in (root / "SegmentationClassAug").iterdir():
        path.write_bytes(b"no mask at all")
    assert named(open_images(DataSettings(root=root, split="train_aug"))) == before


# Settings


def test_settings_take_strings_and_refuse_what_cannot_be_meant() -> None:
    assert DataSettings(root="photos").root == Path("photos")  # type: ignore[arg-type]
    with pytest.raises(
        UsageError,
        match=r"data: kind should be one of 'auto', .*'coco'.*crowd.*pixel_limit should be at least 1, received 0",
    ):
        DataSettings(kind="pascal", crowd="leave", pixel_limit=0)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"crop should be.*resize should be one of.*long_side should be"):
        AugmentSettings(crop=0, resize="fit", long_side=(9, 3))  # type: ignore[arg-type]
    with pytest.raises(
        UsageError, match=r"padding should be one of 'random', 'bottom_right'.*scales should be numbers above 0"
    ):
        AugmentSettings(scales=(0.5, 0), padding="before")  # type: ignore[arg-type]


def test_roots(tmp_path: Path) -> None:
    touch(tmp_path, "tags.csv", "other/cat/a.jpg")
    settings = DataSettings(root=tmp_path / "other", masks=tmp_path / "gone")
    assert "gone: data.masks is not a folder; name the one with ID.png" in failure(settings)
    assert "data.root is missing" in failure(DataSettings())
    assert "data.root does not exist" in failure(DataSettings(root=tmp_path / "gone"))
    assert "data.root is a file; a table is named as data.tags" in failure(DataSettings(root=tmp_path / "tags.csv"))
    assert "could not be read (No such file or directory)" in failure(DataSettings(tags=tmp_path / "gone.csv"))


@pytest.mark.data
def test_real_voc_root(real_data: Path) -> None:
    root = real_data / "data" / "voc-animals"
    settings = DataSettings(kind="voc", root=root, tags=root / "tags.csv", split="train")
    train, val = open_images(settings), open_images(settings, split="val")
    assert (len(train), len(val), len(open_images(settings, split="train_aug"))) == (437, 220, 1200)
    assert all(item.tags and item.truth and item.truth.parent.name == "SegmentationClass" for item in train.items)
    assert not {item.id for item in train.items} & {item.id for item in val.items}
    counts = train.tag_matrix().sum(0)
    assert [train.classes[column] for column in np.argsort(-counts)[:2]] == ["cat", "dog"]


def test_an_item_is_a_value() -> None:
    path = "/data/pets/cat/one.jpg"
    item = ImageItem("cat/one", Path(path), (1, 2), Path("masks/cat/one.png"))
    assert (item.path, item.truth) == (Path(path), Path("masks/cat/one.png"))
    assert pickle.loads(pickle.dumps(item)) == item == replace(item) and hash(item) == hash(replace(item))
    assert replace(item, truth_file=None) == ImageItem("cat/one", Path(path), (1, 2)) != item
    with pytest.raises(FrozenInstanceError):
        item.id = "dog"  # type: ignore[misc]
