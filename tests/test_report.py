"""The page as a file: complete, self-contained, the same twice, safe against hostile names and broken files."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from report_run import CLASSES, HOSTILE, IDS, SmallReport, build_run, write_ranking
from tag2mask.core.errors import UsageError
from tag2mask.core.files import write_text
from tag2mask.data import ImageSet, read_mask, write_mask
from tag2mask.prediction.predictor import SEGMENT_NETWORK
from tag2mask.quality.ranking import CLASSES as CLASSES_TABLE
from tag2mask.quality.ranking import IMAGES, QUALITY
from tag2mask.report import ReportSettings, write_report

SMALL = SmallReport()


class Page(HTMLParser):
    """Elements, their attributes and the text of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.feed(self.source)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        if self.elements and self.elements[-1][0] not in ("script", "style"):
            self.words.append(data)

    def of(self, name: str) -> list[dict[str, str]]:
        """The elements of a class."""
        return [attributes for _, attributes in self.elements if name in attributes.get("class", "").split()]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ImageSet, Page]:
    run, items = build_run(tmp_path_factory.mktemp("report"))
    return run, items, Page(write_report(run, items, SMALL))


def test_everything_is_on_the_page(built: tuple[Path, ImageSet, Page]) -> None:
    page = built[2]
    for words in (
        "40.0 %",
        "−2.5",
        "+15.0",
        "at the best threshold, 0.3",
        "mean IoU 41.0 over classes in truth or prediction",
        "40 training steps",
        "20 s of training",
        "worst first",
    ):
        assert words in page.text, words
    assert len(page.of("card")) == len(IDS)
    for kind in ("image", "classifier", "prototype", "pot", "allocation", "mask", "truth"):
        assert len(page.of("tile") and [1 for tile in page.of("tile") if kind in tile["class"].split()]) == len(IDS), (
            kind
        )
    assert len(page.of("chart")) == 2 + 1 + 3  # two splits; the losses; rate, speed and a number of another name
    assert not page.of("notices")


def test_names_are_text_and_nothing_is_fetched(built: tuple[Path, ImageSet, Page]) -> None:
    page = built[2]
    assert HOSTILE in page.text and IDS[3] in page.text
    assert [tag for tag, _ in page.elements].count("script") == 1
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")], tag
        for name in ("src", "href", "action", "data", "srcset"):
            local = tag == "a" and "//" not in attributes.get(name, "") and ":" not in attributes.get(name, "")
            assert local or attributes.get(name, "data:").startswith(("data:", "#")), (tag, attributes)
        assert "url(" not in attributes.get("style", "").replace("url(data:image/jpeg;base64,", "")
    assert not re.search(r"https?://|@import", page.source)


def test_a_class_has_the_colour_of_the_mask_files(built: tuple[Path, ImageSet, Page]) -> None:
    with Image.open(built[0] / "masks" / f"{IDS[0]}.png") as mask:
        colours = np.array(mask.getpalette()).reshape(-1, 3)
    shown = {dot["style"].removeprefix("--dot:") for dot in built[2].of("dot")}
    assert shown == {"#{:02x}{:02x}{:02x}".format(*colours[class_id]) for class_id in range(len(CLASSES) + 1)}


def test_the_same_run_gives_the_same_page(built: tuple[Path, ImageSet, Page]) -> None:
    run, items, page = built
    assert write_report(run, items, SMALL).read_text(encoding="utf-8") == page.source


def test_an_empty_run_says_what_is_missing(tmp_path: Path) -> None:
    images = ImageSet(CLASSES, (), tmp_path)
    page = Page(write_report(tmp_path, images, ReportSettings()))
    assert "There are no figures" in page.text and "There are no pictures" in page.text
    assert not page.of("card") and not page.of("chart")
    with pytest.raises(UsageError, match="nowhere"):
        write_report(tmp_path / "nowhere", images, ReportSettings())


def test_without_truth_and_confidence_the_order_is_that_of_the_data_set(tmp_path: Path) -> None:
    run, items = build_run(tmp_path, truth=False)
    (run / "metrics.json").unlink()
    page = Page(write_report(run, items, SMALL))
    assert "in the order of the data set" in page.text and "There are no figures" in page.text
    assert len(page.of("card")) == len(IDS)
    assert not [1 for tile in page.of("tile") if "truth" in tile["class"]]


def test_bad_files_are_named_and_the_rest_is_shown(tmp_path: Path) -> None:
    run, images = build_run(tmp_path)
    images.items[0].path.write_bytes(b"no image")
    (run / "cams" / "pot" / "e.npz").write_bytes(b"no archive")
    write_mask(run / "masks" / "f.png", np.zeros((3, 3), dtype=np.uint8))
    (run / "metrics.json").write_text("{")
    (run / "train" / "log.jsonl").write_text('{"step": 1, "loss": 2}\n{"ste')
    page = Page(write_report(run, images, SMALL))
    assert len(page.of("card")) == len(IDS) - 1
    for name in ("0.png", "e.npz", "f.png", "metrics.json", "log.jsonl"):
        assert name in page.text, name
    assert "5 notices" in page.text


def test_a_name_that_is_not_unicode(tmp_path: Path) -> None:
    run, images = build_run(tmp_path)
    odd = replace(images.items[4], id="caf\udce9")  # a file name in Latin-1, as Python reads it
    images = replace(images, items=(*images.items[:4], odd))
    (run / "masks/e.png").rename(run / "masks/caf\udce9.png")
    page = Page(write_report(run, images, replace(SMALL, images=20)))
    assert len(page.of("card")) == 5 and "caf?" in page.text


def test_the_least_certain_masks_are_drawn_in_order(tmp_path: Path) -> None:
    run, items = build_run(tmp_path)
    write_ranking(run, tuple(reversed(IDS)))
    unknown = (run / IMAGES).read_text().replace('"f",0.01', '"f",')
    write_text(run / IMAGES, unknown)
    figures = {"images": 6, "spearman": 0.5, "low": 0.1, "high": 0.8, "worst_tenth": 1.0, "chance": 0.17}
    write_text(run / QUALITY, json.dumps({"split": "train", "ranks": False, **figures}))
    page = Page(write_report(run, items, SmallReport(lowest_confidence=4)))
    assert "rank correlation of confidence with mean IoU is 0.50 [0.10, 0.80]" in page.text
    assert "100 % of the worst tenth (17 % by chance)" in page.text
    assert "so the ranking is not reliable and the confidence of every image is unknown" in page.text
    section = page.source.partition('id="least-certain"')[2].partition('id="gallery"')[0]
    assert section.count("<article ") == 4 and "Least certain masks" in page.text
    names = ["f", "e", "&lt;img src=x onerror=alert(2)&gt;", "c&#39; onerror=&#39;alert(1)"]
    places = [section.index(f"<h4><bdi>{name}</bdi></h4>") for name in names]
    assert places == sorted(places) and "<script>" not in section
    assert section.count("confidence <b>unknown</b>") == 1 and "confidence <b>0.11</b>" in section
    assert section.count('class="name">Mask') == section.count('class="name">Truth') == 4 and "mIoU" in section


def test_the_page_begins_with_the_answers(tmp_path: Path) -> None:
    run, images = build_run(tmp_path)
    write_ranking(run, IDS[:2])
    page = Page(write_report(run, images, SMALL))
    top = page.text.partition("Mean IoU on")[0]
    assert "56.0 % mean IoU on train : masks, argmax" in top and f"55.0 % mean IoU on {HOSTILE} : POT CAM" in top
    assert f"Lowest IoU by class: disc 58.0 % , {HOSTILE} 60.0 %" in top
    assert f"{IDS[0]} 0.01 {IDS[1]} 0.11" in top and page.source.count('id="look-1"') == 1
    folder = str(run.resolve()).join("''")  # its name has a blank
    assert f"tag2mask review {folder}" in top and f"tag2mask segment {folder}" in top
    assert f"tag2mask export coco {folder} --out '{run.resolve()}-coco'" in top and "tag2mask predict" not in top
    write_text(run / SEGMENT_NETWORK, "")
    top = Page(write_report(run, images, SMALL)).text
    assert f"tag2mask predict {folder} IMAGES --out '{run.resolve()}-predictions'" in top and "--restart segment" in top


def test_without_truth_the_answers_are_estimates(tmp_path: Path) -> None:
    run, images = build_run(tmp_path, truth=False)
    (run / "metrics.json").unlink()
    write_ranking(run, IDS[:2])
    rows = ["a,background,0.9,0.5", "a,disc,0.25,0.2", "b,disc,,0", "b,box & co,0.5,0.1"]
    write_text(run / CLASSES_TABLE, "\n".join(["image,class,confidence,share", *rows]) + "\n")
    page = Page(write_report(run, images, SMALL))
    assert "0.06 mean confidence, the estimated mean IoU of a mask: 2 of 2 images have one" in page.text
    assert "Lowest confidence by class: disc 0.25 , box & co 0.50" in page.text
    assert "disc 2 1 10.0 % 0.25 1 0" in page.text  # two images, one with pixels, one of unknown confidence


def test_an_image_has_one_confidence(tmp_path: Path) -> None:
    run, images = build_run(tmp_path)
    lines = ["image,confidence,class,class_confidence,reason", "a,0.58,disc,0.46,CAMs disagree on disc"]
    write_text(run / IMAGES, "\n".join(lines) + "\n")
    page = Page(write_report(run, images, SMALL))
    assert page.text.count("confidence 0.58 mIoU 100.0") == 2  # among the least certain and in the gallery
    assert "CAMs disagree on disc" in page.text and "0.46" not in page.text


def test_files_are_linked_relative_to_the_page(built: tuple[Path, ImageSet, Page]) -> None:
    run, _, page = built
    linked = [attributes["href"] for tag, attributes in page.elements if tag == "a" and attributes["href"][0] != "#"]
    assert len(linked) == 2 * len(IDS) and all((run / unquote(address)).is_file() for address in linked)


def test_a_prediction_is_a_picture_of_its_image(tmp_path: Path) -> None:
    run, images = build_run(tmp_path)
    write_mask(run / "predictions/val/e.png", read_mask(run / "masks/e.png"))
    page = Page(write_report(run, images, SMALL))
    assert len(page.of("prediction")) == 1
    assert "predictions/val/e.png" in [attributes.get("href") for _, attributes in page.elements]


def test_without_ranking_or_truth_there_is_as_much_as_there_can_be(tmp_path: Path) -> None:
    run, images = build_run(tmp_path, truth=False)
    assert "Least certain masks" not in Page(write_report(run, images, SMALL)).text
    write_ranking(run, (*IDS[:2], "gone"))
    images.items[1].path.write_bytes(b"no image")
    other = ImageSet(CLASSES, (), tmp_path)
    page = Page(write_report(run, other, SMALL, ranked=images))
    assert len(page.of("card")) == 1 and "Truth" not in page.text and "1.png" in page.text
    (run / IMAGES).write_text("image\na\n")
    assert "images.csv is damaged" in Page(write_report(run, images, SMALL)).text
