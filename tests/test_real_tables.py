"""Tables and lists as spreadsheets and labelling tools write them: what is read, what is said, what is refused."""

from pathlib import Path
from typing import Any
from unicodedata import normalize

import pytest

from data_sets import Fault, Files, Tags, assert_read, plant
from tag2mask.data.settings import DataSettings

ABC = dict.fromkeys(["a.jpg", "b.jpg", "c.jpg"], "")
NFC, NFD = normalize("NFC", "füße"), normalize("NFD", "füße")
KOALA = {"kind": "voc", "split": "train", "classes": "cat,dog,koala"}


Made = tuple[Files, dict[str, Any]]
Case = tuple[Made, Tags | Fault, tuple[str, ...]]
"""Files and settings, what is read or refused, and parts of what is noted."""


def of(text: str, expected: Tags | Fault, *notes: str, **settings: Any) -> Case:
    """Three images and a table."""
    return (ABC | {"tags.csv": text}, settings), expected, notes


def cells(*tags: str, reads: Any, says: tuple[str, ...] | str = (), **settings: Any) -> Case:
    """The images a, b, … with these cells of tags, and the tags that each has then, joined by `+`."""
    text = "image,tags\n" + "".join(f"{name}.jpg,{cell}\n" for name, cell in zip("abc", tags, strict=False))
    if isinstance(reads, list):
        reads = {name: found.split("+") if found else [] for name, found in zip("abc", reads, strict=False)}
    return of(text, reads, *((says,) if isinstance(says, str) else says), **settings)


def voc(lines: str, *ids: str, **settings: Any) -> Made:
    """A VOC root with images of these names and IDs, each tagged as the koala it shows, and a list."""
    xml = "<a><object><name>koala</name></object></a>"
    files = {f"JPEGImages/{name}": "" for name in ids}
    files |= {f"Annotations/{name.rpartition('.')[0]}.xml": xml for name in ids}
    return files | {"ImageSets/Segmentation/train.txt": lines}, KOALA | settings


def koalas(*ids: str) -> Tags:
    return {name: ["koala"] for name in ids}


CAT_DOG: Tags = {"a": ["cat"], "b": ["dog"]}
CASES: dict[str, Case] = {
    # The header
    "filename-label": of(
        "filename,label\na.jpg,cat\nb.jpg,dog\n",
        CAT_DOG,
        "column `filename` names the images",
        "column `label` holds the tags",
    ),
    "names-in-any-case": of("File_Name,CLASS\na.jpg,cat\nb.jpg,dog\n", CAT_DOG, "column `File_Name` names"),
    "exact-names-win": of("path,image,label,tags\nx,a.jpg,y,cat\n", {"a": ["cat"]}),
    "two-image-columns": of(
        "file,path,tags\na.jpg,a.jpg,cat\n",
        ("bad-table", "several columns may be `image`: `file`, `path`; name one of them `image`"),
    ),
    "two-tag-columns": of("image,label,category\na.jpg,cat,x\n", ("bad-table", "`label`, `category`")),
    "semicolons": of(
        "image;tags\na.jpg;cat,dog\nb.jpg;dog|cat\nc.jpg;cat\n",
        {"a": ["cat", "dog"], "b": ["cat", "dog"], "c": ["cat"]},
        "columns are separated by `;`",
        "tags are joined by `,`",
        "tags are joined by `|`",
    ),
    "tabs": of("image\ttags\na.jpg\tcat;dog\n", {"a": ["cat", "dog"]}, "columns are separated by tabs"),
    "sep-line": of("sep=;\nimage;tags\na.jpg;cat\n", {"a": ["cat"]}, "separated by `;`"),
    "sep-line-counts": of("sep=,\nimage,tags\na.jpg,cat\n,dog\n", ("bad-row", "line 4: the line names no image")),
    "semicolons-within": of(
        "image;tags\na.jpg;cat;dog\n",
        ("bad-row", "3 columns instead of 2; several tags are joined by `,` or `|`, not by `;`"),
    ),
    "index": of(",image,cat,dog\n0,a.jpg,1,0\n1,b.jpg,0,1\n", CAT_DOG, "the first column numbers the lines"),
    "pandas-index": of("Unnamed: 0,image,tags\n3,a.jpg,cat\n7,b.jpg,dog\n", CAT_DOG, "`Unnamed: 0` numbers"),
    "no-index": of(",image,tags\n7,a.jpg,cat\n3,b.jpg,dog\n", ("bad-table", "a column has no name")),
    "no-index-of-ones": of("Unnamed: 0,image,cat\n1,a.jpg,1\n0,b.jpg,0\n", ("bad-table", "`Unnamed: 0`")),
    "surplus": of("image,tags,,\na.jpg,cat,,\nb.jpg,dog,,,,\n", CAT_DOG),
    "surplus-of-lines": of("image,cat,dog\na.jpg,1,0,,\nb.jpg,0,1,\n", CAT_DOG),
    "surplus-filled": of("image,tags,\na.jpg,cat,dog\n", ("bad-table", "a column has no name")),
    # Columns of 0 and 1
    "truths": of("image,cat,dog\na.jpg,TRUE,0.0\nb.jpg,False,1.0\nc.jpg,true,1\n", CAT_DOG | {"c": ["cat", "dog"]}),
    "no-classes": of(
        "image,sex,cat,Is Valid,dog\na.jpg,1,1,1,0\n",
        ("bad-table", "not classes: `sex`, `Is Valid`; name the class columns, as `--data.classes cat,dog`"),
    ),
    "other-values": of(
        "image,cat,cm,dog\na.jpg,1,1,1\nb.jpg,0,17,0\nc.jpg,0,18,0\n",
        (
            "bad-value",
            "line 3: a class column should hold 0 or 1, here `cm` = `17`; "
            "name the class columns, as `--data.classes cat,dog`, or remove the others",
        ),
    ),
    "missing-value": of("image,cat,dog\na.jpg,1,0\nb.jpg,,1\n", ("bad-value", "line 3: a class column")),
    "classes-choose-columns": of(
        "image,sex,cat,age,dog\na.jpg,m,1,40,0\nb.jpg,f,0,50,1\n",
        CAT_DOG,
        "columns that are not in data.classes are passed over: `sex`, `age`",
        classes="cat,dog",
    ),
    "class-called-label": of("image,label,dog\na.jpg,1,0\n", {"a": ["label"]}, classes="label,dog"),
    "misspelt-column": of(
        "image,Cat,dog\na.jpg,1,0\n",
        ("bad-table", "the column `Cat` is not in data.classes, and a class there has no column; did you mean `cat`?"),
        classes="cat,dog",
    ),
    "no-column-is-a-class": of("image,x,y\na.jpg,1,0\n", ("bad-table", "no column is one of"), classes="cat,dog"),
    "column-of-nothing": of(
        "image,No Finding,cat\na.jpg,0,1\nb.jpg,1,0\n",
        {"a": ["cat"], "b": []},
        "columns that mean that an image holds none of the classes are passed over: `No Finding`",
    ),
    "a-label-among-classes": of(
        "image,bottle,label\na.jpg,0,1\nb.jpg,1,1\n",
        ("bad-table", "the column `label` holds 0 and 1, and so does `bottle`"),
    ),
    # How tags are joined
    "commas": cells('"cat, dog"', "dog", reads=["cat+dog", "dog"], says="by `,`"),
    "semicolon-wins": cells('"x, y;dog"', reads=["dog+x, y"]),
    "name-with-comma": cells(
        '"cat,chair, wooden"',
        '"chair, wooden"',
        reads=["cat+chair, wooden", "chair, wooden"],
        says="tags are joined by `,`",
        classes="classes.txt",
    ),
    "blanks": cells(
        "cat",
        "person",
        "cat person",
        reads=["cat", "person", "cat+person"],
        says="tags are joined by blanks where each word is a tag by itself (first: `cat`, `person`)",
    ),
    "blanks-of-classes": cells("cat dog", reads=["cat+dog"], says="by blanks", classes="cat,dog"),
    "blank-in-a-class": cells("hot dog", reads=["hot dog"], classes="hot dog,dog,hot"),
    "blank-in-a-name": cells("traffic light", "dog", reads=["traffic light", "dog"]),
    "blank-in-a-joined-name": cells(
        "hot dog;cat",
        "hot dog",
        "hot;dog",
        reads=["cat+hot dog", "hot dog", "dog+hot"],
        says=(
            "warning: tags.csv: each of these is read as one tag, though a word of it is in other tags",
            "too (1): `hot dog`; if a blank joins tags there",
        ),
    ),
    "blank-in-doubt": cells(
        "cat person",
        "dog person",
        reads=["cat person", "dog person"],
        says="too (2): `cat person`, `dog person`; if a blank joins tags there, write `;`",
    ),
    "one-separator-in-a-table": cells(
        "cat;dog",
        "hot dog",
        '"bird, small"',
        reads=["cat+dog", "hot dog", "bird, small"],
        says="though a word of it is in other tags, too (1): `hot dog`",
    ),
    "lists": cells(
        '"[""pit"", ""big rust""]"',
        "\"['pit', 'rust']\"",
        '"{""choices"": [""rust"", ""dent""]}"',
        reads=["big rust+pit", "pit+rust", "dent+rust"],
        says="tags are written as lists (first: `pit`, `big rust`)",
    ),
    "label-studio": of(
        'annotation_id,choice,image\n7,"{""choices"": [""cat""]}",a.jpg\n8,dog,/data/upload/1/b.jpg\n',
        CAT_DOG,
        "column `choice` holds the tags",
        "written as lists",
        "without `/data/upload/1/`",
    ),
    "empty-list": cells("[]", "['pit']", reads=["", "pit"], says="1 image is tagged `[]`"),
    **{
        f"no-list-{number}": cells(cell, reads=("bad-value", "begins like a list"))
        for number, cell in enumerate(
            ('"[pit, rust]"', "['pit' 'rust']", '"[1, 2]"', '"[""pit"", ""ru"', '"{""pit"": 1}"')
        )
    },
    # Nothing
    "nothing": cells(
        "None",
        "No Finding",
        "cat",
        reads=["", "", "cat"],
        says=("1 image is tagged `None`: read as images that hold none of the classes", "tagged `No Finding`"),
    ),
    "nothing-spelt-twice": cells(
        "no finding", "No findings", "x", reads=["", "", "x"], says=("tagged `no finding`", "tagged `No findings`")
    ),
    "nothing-counted": cells("-", "-", "x", reads=["", "", "x"], says="2 images are"),
    "none-is-a-class": cells("nil", "cat", reads=["nil", "cat"], classes="nil,cat"),
    "sodium-is-a-tag": cells("Na", "NA", "Fe", reads=["Na", "", "Fe"], says="1 image is tagged `NA`"),
    "negatives": cells(
        "Healthy", "_none", "x", reads=["", "", "x"], says=("tagged `Healthy`", "tagged `_none`"), negatives="healthy"
    ),
    "negatives-misspelt": cells(
        "healthy",
        "x",
        reads=("bad-classes", "no image is tagged `helthy`; did you mean `healthy`?"),
        negatives="helthy",
    ),
    "nothing-and-something": cells("cat;none", reads=("bad-value", "`cat;none` holds a tag and `none`")),
    "zero": cells("0", "cat", reads=["", "cat"], says="tagged `0`"),
    "zero-or-class": cells(
        "0", "1", "0", reads=("bad-value", "line 2: tags are numbers, so `0` may be a class or nothing")
    ),
    "zero-is-a-class": cells("0", "1", reads=["0", "1"], classes="0,1"),
    "zero-is-not-a-class": cells("0", "1", reads=["", "1"], says="tagged `0`", classes="1,2"),
    "one-tag-in-two-forms-of-unicode": cells(NFC, NFD, reads=[NFC, NFC]),
    # Paths
    "paths-of-another-machine": (
        (
            dict.fromkeys(["cat/a.jpg", "a.jpg", "b.jpg"], "")
            | {"tags.csv": "image,tags\nC:\\data\\cat\\a.jpg,cat\n/home/me/data/b.jpg,dog\n"},
            {},
        ),
        {"cat/a": ["cat"], "b": ["dog"]},
        ("2 images are listed by a path outside the root and found below it without `C:/data/`, `/home/me/data/`",),
    ),
    **{
        f"path-outside-{path}": of(f"image,tags\n{path},cat\n", ("outside-root", f"`{path}` lies outside the root"))
        for path in ("/x/cat/../a.jpg", "../x/a.jpg", "../a.jpg/..", "C:\\x\\d.jpg")
    },
    # VOC lists
    "list": (
        voc("one\ntwo.jpg\n/JPEGImages/three.jpg\n", "one.jpg", "two.jpg", "three.jpg"),
        koalas("one", "three", "two"),
        (),
    ),
    "list-of-pairs": (
        voc(
            "/JPEGImages/one.jpg /SegmentationClassAug/one.png\ntwo SegmentationClass/two.png\n"
            "JPEGImages/in/a b.jpg\tSegmentationClass/in/a b.png\n",
            "one.jpg",
            "two.jpg",
            "in/a b.jpg",
        ),
        koalas("one", "two", "in/a b"),
        (),
    ),
    "list-with-blanks": (voc("cat 1\ncat 2.jpg\n", "cat 1.jpg", "cat 2.jpg", "cat.jpg"), koalas("cat 1", "cat 2"), ()),
    "list-with-blanks-missing": (voc("cat 1.jpg\n", "cat.jpg"), ("missing-image", "JPEGImages/cat 1.jpg does not"), ()),
    "list-of-double-suffixes": (
        voc("a.jpg\nb.jpg.png\nc.d\n", "a.jpg.png", "b.jpg.png", "c.d.jpg"),
        koalas("a.jpg", "b.jpg", "c.d"),
        (),
    ),
    "list-of-subfolders": (voc("sub/a.jpg\na\n", "sub/a.jpg", "a.jpg"), koalas("sub/a", "a"), ()),
    "list-of-missing-subfolders": (voc("sub/a\n", "a.jpg"), ("missing-image", "JPEGImages/sub/a.jpg does not"), ()),
    "list-that-climbs": (
        voc("../a\n", "b.jpg"),
        ("outside-root", "train.txt line 1: `../a` leads out of JPEGImages"),
        (),
    ),
    "list-with-repeats": (voc("a\nJPEGImages/a.jpg\n", "a.jpg"), ("duplicate-id", "a is listed twice"), ()),
    "voc-table": (
        (
            dict.fromkeys(["JPEGImages/cat 1.jpg", "JPEGImages/sub/a.jpg", "JPEGImages/a.jpg"], "")
            | {"tags.csv": "filename,label\ncat 1,cat person\nC:\\voc\\JPEGImages\\sub\\a.jpg,dog\na.jpg,\n"},
            {"kind": "voc"},
        ),
        {"cat 1": ["cat", "person"], "sub/a": ["dog"], "a": []},
        ("column `filename` names the images", "tags are joined by blanks"),
    ),
    "voc-list-of-class-ids": (
        ({"JPEGImages/sub/a.jpg": "", "ids.txt": "sub/a\t7 14\n"}, {"kind": "voc", "tags": "ids.txt"}),
        {"sub/a": ["cat", "person"]},
        ("the tags are class ids, from 0 `aeroplane` to 19 `tvmonitor`",),
    ),
    "voc-table-without-folder": (
        ({"JPEGImages/sub/a.jpg": "", "tags.csv": "image,tags\na.jpg,cat\n"}, {"kind": "voc"}),
        ("missing-tags", "sub/a has no line"),
        (),
    ),
}


@pytest.mark.parametrize(("made", "expected", "notes"), CASES.values(), ids=CASES)
def test_real_tables(made: Made, expected: Tags | Fault, notes: tuple[str, ...], tmp_path: Path) -> None:
    files, settings = made
    plant(tmp_path, {"classes.txt": "cat\nchair, wooden\n"} | files)
    if settings.get("classes") == "classes.txt":
        settings = settings | {"classes": str(tmp_path / "classes.txt")}
    if "tags" in settings:
        settings = settings | {"tags": tmp_path / settings["tags"]}
    assert_read(DataSettings(**{"root": tmp_path, "kind": "table"} | settings), expected, notes)
