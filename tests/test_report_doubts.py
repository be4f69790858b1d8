"""The section "look here first" of the report: the ranking of the run, drawn, with hostile names and without truth."""

import json
from pathlib import Path

from report_run import CLASSES, HOSTILE, IDS, SmallReport, build_run
from tag2mask.core.files import write_text
from tag2mask.data import ImageSet
from tag2mask.quality.ranking import IMAGES, QUALITY
from tag2mask.report import write_report
from test_report import SMALL, Page


def with_ranking(run: Path, ids: tuple[str, ...]) -> None:
    quoted = [f'"{name}"' for name in ids]
    lines = [
        f"{name},0.{place}1,{HOSTILE.replace(chr(34), '')},0.0,network disagrees" for place, name in enumerate(quoted)
    ]
    write_text(run / IMAGES, "\n".join(["image,confidence,class,class_confidence,reason", *lines]) + "\n")


def test_the_least_certain_masks_are_drawn_in_order(tmp_path: Path) -> None:
    run, items = build_run(tmp_path)
    with_ranking(run, tuple(reversed(IDS)))
    figures = {"images": 6, "spearman": 0.5, "low": 0.1, "high": 0.8, "worst_tenth": 1.0, "chance": 0.17}
    write_text(run / QUALITY, json.dumps({"split": "train", **figures}))
    page = Page(write_report(run, items, SmallReport(lowest_confidence=4)))
    assert len(page.of("doubt")) == 4 and "Look here first" in page.text
    assert "rank correlation of confidence with mean IoU is 0.50 [0.10, 0.80]" in page.text
    assert "100 % of the worst tenth (17 % by chance)" in page.text
    section = page.source.partition('id="doubts"')[2].partition("</section>")[0]
    names = ["f", "e", "&lt;img src=x onerror=alert(2)&gt;", "c&#39; onerror=&#39;alert(1)"]
    places = [section.index(f"<h3><bdi>{name}</bdi></h3>") for name in names]
    assert places == sorted(places) and "<script>" not in section
    assert section.count("<figcaption>Mask") == section.count("<figcaption>Truth") == 4 and "mean IoU" in section


def test_without_ranking_or_truth_there_is_as_much_as_there_can_be(tmp_path: Path) -> None:
    run, images = build_run(tmp_path, truth=False)
    assert "Look here first" not in Page(write_report(run, images, SMALL)).text
    with_ranking(run, (*IDS[:2], "gone"))
    images.items[1].path.write_bytes(b"no image")
    other = ImageSet(CLASSES, (), tmp_path)
    page = Page(write_report(run, other, SMALL, judged=images))
    assert len(page.of("doubt")) == 1 and "Truth" not in page.text and "1.png" in page.text
    (run / IMAGES).write_text("image\na\n")
    assert "images.csv is damaged" in Page(write_report(run, images, SMALL)).text
