"""Tables and lists as spreadsheets and labelling tools write them: what is read, what is said, what is refused."""

from pathlib import Path
from typing import Any
from unicodedata import normalize

import pytest

from tag2mask.data.photos import survey
from tag2mask.data.settings import DataSettings

Files = dict[str, str]
Tags = dict[str, list[str]]
Fault = tuple[str, str]
"""The kind of an error, and a part of its line."""

ABC = dict.fromkeys(["a.jpg", "b.jpg", "c.jpg"], "")
VOC = {"Annotations/cat.xml": "<a><object><name>cat</name></object></a>"}
NFC, NFD = normalize("NFC", "füße"), normalize("NFD", "füße")
KOALA = {"kind": "voc", "split": "train", "classes": "cat,dog,koala"}


def of(text: str, **settings: Any) -> tuple[Files, dict[str, Any]]:
    """Three images and a table."""
    return ABC | {"tags.csv": text}, settings


def voc(lines: str, *ids: str, **settings: Any) -> tuple[Files, dict[str, Any]]:
    """A VOC root with images of these names and IDs, each tagged as the koala it shows, and a list."""
    xml = "<a><object><name>koala</name></object></a>"
    files = {f"JPEGImages/{name}": "" for name in ids}
    files |= {f"Annotations/{name.rpartition('.')[0]}.xml": xml for name in ids}
    return files | {"ImageSets/Segmentation/train.txt": lines}, KOALA | settings


def koalas(*ids: str) -> Tags:
    return {name: ["koala"] for name in ids}


CAT_DOG: Tags = {"a": ["cat"], "b": ["dog"]}
CASES: dict[str, tuple[tuple[Files, dict[str, Any]], Tags | Fault, list[str]]] = {
    # The header
    "filename-label": (
        of("filename,label\na.jpg,cat\nb.jpg,dog\n"),
        CAT_DOG,
        ["column `filename` names the images", "column `label` holds the tags"],
    ),
    "names-in-any-case": (of("File_Name,CLASS\na.jpg,cat\nb.jpg,dog\n"), CAT_DOG, ["column `File_Name` names"]),
    "exact-names-win": (of("path,image,label,tags\nx,a.jpg,y,cat\n"), {"a": ["cat"]}, []),
    "two-image-columns": (
        of("file,path,tags\na.jpg,a.jpg,cat\n"),
        ("bad-table", "several columns may be `image`: `file`, `path`; name one of them `image`"),
        [],
    ),
    "two-tag-columns": (of("image,label,category\na.jpg,cat,x\n"), ("bad-table", "`label`, `category`"), []),
    "semicolons": (
        of("image;tags\na.jpg;cat,dog\nb.jpg;dog|cat\nc.jpg;cat\n"),
        {"a": ["cat", "dog"], "b": ["cat", "dog"], "c": ["cat"]},
        ["columns are separated by `;`", "tags are joined by `,`", "tags are joined by `|`"],
    ),
    "tabs": (of("image\ttags\na.jpg\tcat;dog\n"), {"a": ["cat", "dog"]}, ["columns are separated by tabs"]),
    "sep-line": (of("sep=;\nimage;tags\na.jpg;cat\n"), {"a": ["cat"]}, ["separated by `;`"]),
    "sep-line-counts": (of("sep=,\nimage,tags\na.jpg,cat\n,dog\n"), ("bad-row", "line 4: the line names no image"), []),
    "semicolons-within": (
        of("image;tags\na.jpg;cat;dog\n"),
        ("bad-row", "3 columns instead of 2; several tags are joined by `,` or `|`, not by `;`"),
        [],
    ),
    "index": (of(",image,cat,dog\n0,a.jpg,1,0\n1,b.jpg,0,1\n"), CAT_DOG, ["the first column numbers the lines"]),
    "pandas-index": (of("Unnamed: 0,image,tags\n3,a.jpg,cat\n7,b.jpg,dog\n"), CAT_DOG, ["`Unnamed: 0` numbers"]),
    "no-index": (of(",image,tags\n7,a.jpg,cat\n3,b.jpg,dog\n"), ("bad-table", "a column has no name"), []),
    "no-index-of-ones": (of("Unnamed: 0,image,cat\n1,a.jpg,1\n0,b.jpg,0\n"), ("bad-table", "`Unnamed: 0`"), []),
    "surplus": (of("image,tags,,\na.jpg,cat,,\nb.jpg,dog,,,,\n"), CAT_DOG, []),
    "surplus-of-lines": (of("image,cat,dog\na.jpg,1,0,,\nb.jpg,0,1,\n"), CAT_DOG, []),
    "surplus-filled": (of("image,tags,\na.jpg,cat,dog\n"), ("bad-table", "a column has no name"), []),
    # Columns of 0 and 1
    "truths": (
        of("image,cat,dog\na.jpg,TRUE,0.0\nb.jpg,False,1.0\nc.jpg,true,1\n"),
        CAT_DOG | {"c": ["cat", "dog"]},
        [],
    ),
    "no-classes": (
        of("image,sex,cat,Is Valid,dog\na.jpg,1,1,1,0\n"),
        ("bad-table", "not classes: `sex`, `Is Valid`; name the class columns, as `--data.classes cat,dog`"),
        [],
    ),
    "other-values": (
        of("image,cat,cm,dog\na.jpg,1,1,1\nb.jpg,0,17,0\nc.jpg,0,18,0\n"),
        (
            "bad-value",
            "line 3: a class column should hold 0 or 1, here `cm` = `17`; "
            "name the class columns, as `--data.classes cat,dog`, or remove the others",
        ),
        [],
    ),
    "missing-value": (of("image,cat,dog\na.jpg,1,0\nb.jpg,,1\n"), ("bad-value", "line 3: a class column"), []),
    "classes-choose-columns": (
        of("image,sex,cat,age,dog\na.jpg,m,1,40,0\nb.jpg,f,0,50,1\n", classes="cat,dog"),
        CAT_DOG,
        ["columns that are not in data.classes are passed over: `sex`, `age`"],
    ),
    "class-called-label": (of("image,label,dog\na.jpg,1,0\n", classes="label,dog"), {"a": ["label"]}, []),
    "misspelt-column": (
        of("image,Cat,dog\na.jpg,1,0\n", classes="cat,dog"),
        ("bad-table", "the column `Cat` is not in data.classes, and a class there has no column; did you mean `cat`?"),
        [],
    ),
    "no-column-is-a-class": (of("image,x,y\na.jpg,1,0\n", classes="cat,dog"), ("bad-table", "no column is one of"), []),
    "column-of-nothing": (
        of("image,No Finding,cat\na.jpg,0,1\nb.jpg,1,0\n"),
        {"a": ["cat"], "b": []},
        ["columns that mean that an image holds none of the classes are passed over: `No Finding`"],
    ),
    # How tags are joined
    "commas": (of('image,tags\na.jpg,"cat, dog"\nb.jpg,dog\n'), {"a": ["cat", "dog"], "b": ["dog"]}, ["by `,`"]),
    "semicolon-wins": (of('image,tags\na.jpg,"x, y;dog"\n'), {"a": ["dog", "x, y"]}, []),
    "name-with-comma": (
        of('image,tags\na.jpg,"cat,chair, wooden"\nb.jpg,"chair, wooden"\n', classes="classes.txt"),
        {"a": ["cat", "chair, wooden"], "b": ["chair, wooden"]},
        ["tags are joined by `,`"],
    ),
    "blanks": (
        of("image,tags\na.jpg,cat\nb.jpg,person\nc.jpg,cat person\n"),
        {"a": ["cat"], "b": ["person"], "c": ["cat", "person"]},
        ["tags are joined by blanks where each word is a tag by itself (first: `cat`, `person`)"],
    ),
    "blanks-of-classes": (of("image,tags\na.jpg,cat dog\n", classes="cat,dog"), {"a": ["cat", "dog"]}, ["by blanks"]),
    "blank-in-a-class": (of("image,tags\na.jpg,hot dog\n", classes="hot dog,dog,hot"), {"a": ["hot dog"]}, []),
    "blank-in-a-name": (of("image,tags\na.jpg,traffic light\nb.jpg,dog\n"), {"a": ["traffic light"], "b": ["dog"]}, []),
    "blank-in-a-joined-name": (
        of("image,tags\na.jpg,hot dog;cat\nb.jpg,hot dog\nc.jpg,hot;dog\n"),
        {"a": ["cat", "hot dog"], "b": ["hot dog"], "c": ["dog", "hot"]},
        [
            "warning: tags.csv: each of these is read as one tag, though a word of it is in other tags",
            "too (1): `hot dog`; if a blank joins tags there",
        ],
    ),
    "blank-in-doubt": (
        of("image,tags\na.jpg,cat person\nb.jpg,dog person\n"),
        {"a": ["cat person"], "b": ["dog person"]},
        ["too (2): `cat person`, `dog person`; if a blank joins tags there, write `;`"],
    ),
    "lists": (
        of(
            'image,tags\na.jpg,"[""pit"", ""big rust""]"\nb.jpg,"[\'pit\', \'rust\']"\n'
            'c.jpg,"{""choices"": [""rust"", ""dent""]}"\n'
        ),
        {"a": ["big rust", "pit"], "b": ["pit", "rust"], "c": ["dent", "rust"]},
        ["tags are written as lists (first: `pit`, `big rust`)"],
    ),
    "label-studio": (
        of('annotation_id,choice,image\n7,"{""choices"": [""cat""]}",a.jpg\n8,dog,/data/upload/1/b.jpg\n'),
        CAT_DOG,
        ["column `choice` holds the tags", "written as lists", "without `/data/upload/1/`"],
    ),
    "empty-list": (of("image,tags\na.jpg,[]\nb.jpg,['pit']\n"), {"a": [], "b": ["pit"]}, ["1 image is tagged `[]`"]),
    "list-without-quotes": (of('image,tags\na.jpg,"[pit, rust]"\n'), ("bad-value", "begins like a list"), []),
    "list-without-commas": (of("image,tags\na.jpg,['pit' 'rust']\n"), ("bad-value", "begins like a list"), []),
    "list-of-numbers": (of('image,tags\na.jpg,"[1, 2]"\n'), ("bad-value", "line 2: `[1, 2]` begins like a list"), []),
    "list-cut-off": (of('image,tags\na.jpg,"[""pit"", ""ru"\n'), ("bad-value", "begins like a list"), []),
    "other-object": (of('image,tags\na.jpg,"{""pit"": 1}"\n'), ("bad-value", "begins like a list"), []),
    # Nothing
    "nothing": (
        of("image,tags\na.jpg,None\nb.jpg,No Finding\nc.jpg,cat\n"),
        {"a": [], "b": [], "c": ["cat"]},
        ["1 image is tagged `None`: read as images that hold none of the classes", "tagged `No Finding`"],
    ),
    "nothing-spelt-twice": (
        of("image,tags\na.jpg,no finding\nb.jpg,No findings\nc.jpg,x\n"),
        {"a": [], "b": [], "c": ["x"]},
        ["tagged `no finding`", "tagged `No findings`"],
    ),
    "nothing-counted": (
        of("image,tags\na.jpg,-\nb.jpg,-\nc.jpg,x\n"),
        {"a": [], "b": [], "c": ["x"]},
        ["2 images are"],
    ),
    "none-is-a-class": (of("image,tags\na.jpg,nil\nb.jpg,cat\n", classes="nil,cat"), {"a": ["nil"], "b": ["cat"]}, []),
    "negatives": (
        of("image,tags\na.jpg,Healthy\nb.jpg,_none\nc.jpg,x\n", negatives="healthy"),
        {"a": [], "b": [], "c": ["x"]},
        ["tagged `Healthy`", "tagged `_none`"],
    ),
    "negatives-misspelt": (
        of("image,tags\na.jpg,healthy\nb.jpg,x\n", negatives="helthy"),
        ("bad-classes", "no image is tagged `helthy`; did you mean `healthy`?"),
        [],
    ),
    "nothing-and-something": (
        of("image,tags\na.jpg,cat;none\n"),
        ("bad-value", "`cat;none` holds a tag and `none`"),
        [],
    ),
    "zero": (of("image,tags\na.jpg,0\nb.jpg,cat\n"), {"a": [], "b": ["cat"]}, ["tagged `0`"]),
    "zero-or-class": (
        of("image,tags\na.jpg,0\nb.jpg,1\nc.jpg,0\n"),
        ("bad-value", "line 2: tags are numbers, so `0` may be a class or nothing"),
        [],
    ),
    "zero-is-a-class": (of("image,tags\na.jpg,0\nb.jpg,1\n", classes="0,1"), {"a": ["0"], "b": ["1"]}, []),
    "zero-is-not-a-class": (of("image,tags\na.jpg,0\nb.jpg,1\n", classes="1,2"), {"a": [], "b": ["1"]}, ["tagged `0`"]),
    # Unicode
    "one-tag-in-two-forms": (of(f"image,tags\na.jpg,{NFC}\nb.jpg,{NFD}\n"), {"a": [NFC], "b": [NFC]}, []),
    "file-in-nfd": (({f"{NFD}.jpg": "", "tags.csv": f"image,tags\n{NFC}.jpg,cat\n"}, {}), {NFC: ["cat"]}, []),
    "file-in-nfc": (({f"{NFC}.jpg": "", "tags.csv": f"image,tags\n{NFD}.jpg,cat\n"}, {}), {NFC: ["cat"]}, []),
    # Paths
    "one-separator-in-a-table": (
        of('image,tags\na.jpg,cat;dog\nb.jpg,hot dog\nc.jpg,"bird, small"\n'),
        {"a": ["cat", "dog"], "b": ["hot dog"], "c": ["bird, small"]},
        ["though a word of it is in other tags, too (1): `hot dog`"],
    ),
    "sodium-is-a-tag": (
        of("image,tags\na.jpg,Na\nb.jpg,NA\nc.jpg,Fe\n"),
        {"a": ["Na"], "b": [], "c": ["Fe"]},
        ["1 image is tagged `NA`"],
    ),
    "a-label-among-classes": (
        of("image,bottle,label\na.jpg,0,1\nb.jpg,1,1\n"),
        ("bad-table", "the column `label` holds 0 and 1, and so does `bottle`"),
        [],
    ),
    "paths-of-another-machine": (
        (
            {
                "cat/a.jpg": "",
                "a.jpg": "",
                "b.jpg": "",
                "tags.csv": "image,tags\nC:\\data\\cat\\a.jpg,cat\n/home/me/data/b.jpg,dog\n",
            },
            {},
        ),
        {"cat/a": ["cat"], "b": ["dog"]},
        ["2 images are listed by a path outside the root and found below it without `C:/data/`, `/home/me/data/`"],
    ),
    "path-through-dots": (
        ({"cat/a.jpg": "", "tags.csv": "image,tags\n/x/cat/../a.jpg,cat\n"}, {}),
        ("outside-root", "`/x/cat/../a.jpg` lies outside the root"),
        [],
    ),
    "path-beside-the-root": (
        ({"a.jpg": "", "tags.csv": "image,tags\n../x/a.jpg,cat\n"}, {}),
        ("outside-root", "`../x/a.jpg` lies outside the root"),
        [],
    ),
    "path-that-ends-in-dots": (of("image,tags\n../a.jpg/..,cat\n"), ("outside-root", "lies outside"), []),
    "path-of-nothing": (of("image,tags\nC:\\x\\d.jpg,cat\n"), ("outside-root", "`C:\\x\\d.jpg` lies outside"), []),
    # VOC lists
    "list": (
        voc("one\ntwo.jpg\n/JPEGImages/three.jpg\n", "one.jpg", "two.jpg", "three.jpg"),
        koalas("one", "three", "two"),
        [],
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
        [],
    ),
    "list-with-blanks": (voc("cat 1\ncat 2.jpg\n", "cat 1.jpg", "cat 2.jpg", "cat.jpg"), koalas("cat 1", "cat 2"), []),
    "list-with-blanks-missing": (voc("cat 1.jpg\n", "cat.jpg"), ("missing-image", "JPEGImages/cat 1.jpg does not"), []),
    "list-of-double-suffixes": (
        voc("a.jpg\nb.jpg.png\nc.d\n", "a.jpg.png", "b.jpg.png", "c.d.jpg"),
        koalas("a.jpg", "b.jpg", "c.d"),
        [],
    ),
    "list-of-subfolders": (voc("sub/a.jpg\na\n", "sub/a.jpg", "a.jpg"), koalas("sub/a", "a"), []),
    "list-of-missing-subfolders": (
        voc("sub/a\n", "a.jpg"),
        ("missing-image", "JPEGImages/sub/a.jpg does not exist"),
        [],
    ),
    "list-that-climbs": (
        voc("../a\n", "b.jpg"),
        ("outside-root", "train.txt line 1: `../a` leads out of JPEGImages"),
        [],
    ),
    "list-with-repeats": (voc("a\nJPEGImages/a.jpg\n", "a.jpg"), ("duplicate-id", "a is listed twice"), []),
    "voc-table": (
        (
            {
                "JPEGImages/cat 1.jpg": "",
                "JPEGImages/sub/a.jpg": "",
                "JPEGImages/a.jpg": "",
                "tags.csv": "filename,label\ncat 1,cat person\nC:\\voc\\JPEGImages\\sub\\a.jpg,dog\na.jpg,\n",
            },
            {"kind": "voc"},
        ),
        {"cat 1": ["cat", "person"], "sub/a": ["dog"], "a": []},
        ["column `filename` names the images", "tags are joined by blanks"],
    ),
    "voc-table-without-folder": (
        ({"JPEGImages/sub/a.jpg": "", "tags.csv": "image,tags\na.jpg,cat\n"}, {"kind": "voc"}),
        ("missing-tags", "sub/a has no line"),
        [],
    ),
}


@pytest.mark.parametrize(("made", "expected", "notes"), CASES.values(), ids=CASES)
def test_real_tables(
    made: tuple[Files, dict[str, Any]], expected: Tags | Fault, notes: list[str], tmp_path: Path
) -> None:
    files, settings = made
    for name, text in ({"classes.txt": "cat\nchair, wooden\n"} | files).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    if settings.get("classes") == "classes.txt":
        settings = settings | {"classes": str(tmp_path / "classes.txt")}
    found = survey(DataSettings(**{"root": tmp_path, "kind": "table"} | settings))
    errors = [(problem.kind, str(problem)) for problem in found.problems if problem.level == "error"]
    if isinstance(expected, tuple):
        follows = {"no-tags", "missing-tags"} - {expected[0]}  # from what is expected
        ((kind, line),) = [each for each in errors if each[0] not in follows]
        assert kind == expected[0]
        assert expected[1] in line
    else:
        assert errors == []
        assert {p.id: sorted(found.photos.classes[tag - 1] for tag in p.tags) for p in found.photos.photos} == expected
        assert all(photo.path.is_file() for photo in found.photos.photos)
    said = [note for note in found.photos.notes if "hold none of the classes; add tags" not in note]
    assert [part for part in notes if not any(part in note for note in said)] == []
    assert notes or not said or isinstance(expected, tuple)
