"""A class, background and 255 have one colour everywhere: that of the palette in the mask files."""

import base64
import io
import re
from pathlib import Path

import numpy as np
from PIL import Image

import tag2mask.review
from review_run import CLASSES, build_run, open_session
from tag2mask.export.formats import ExportSettings, export_masks
from tag2mask.export.formats.registry import MaskSource
from tag2mask.report.pictures import label_uri
from tag2mask.review.server import Guard, build_app


def test_files_report_review_and_exports_agree(tmp_path: Path) -> None:
    run = build_run(tmp_path)
    with Image.open(run / "masks/one.png") as image:
        table = np.array(image.getpalette()).reshape(-1, 3)
    colours = {name: tuple(table[class_id].tolist()) for class_id, name in enumerate(("background", *CLASSES))}
    ignored = tuple(table[255].tolist())

    labels = np.repeat(np.array([[*range(21), 255]], dtype=np.uint8), 12, axis=1).repeat(12, axis=0)
    data = base64.b64decode(label_uri(labels).split(",")[1])
    drawn = np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))
    for class_id, colour in enumerate(list(colours.values())[1:], 1):
        assert tuple(drawn[6, 12 * class_id + 6, :3].tolist()) == colour
    hatch = {tuple(pixel) for pixel in drawn[:, -8:].reshape(-1, 4).tolist()}
    assert {pixel[:3] for pixel in hatch} == {ignored, tuple(part // 2 for part in ignored)}

    guard = Guard("127.0.0.1", 8765)
    app = build_app(open_session(run), guard, "run").test_client()
    answer = app.get(f"/{guard.key}/api/review", base_url="http://127.0.0.1:8765").get_json()
    assert {each["name"]: _rgb(each["colour"]) for each in answer["classes"]}.items() <= colours.items()
    static = Path(tag2mask.review.__file__).parent / "static"
    packed = re.search(r"HATCH = \[0x(\w+), 0x(\w+)\]", (static / "view.js").read_text(encoding="utf-8"))
    assert packed and {tuple(bytes.fromhex(each)[::-1]) for each in packed.groups()} == hatch  # ABGR
    style = (static / "style.css").read_text(encoding="utf-8")
    dots = dict(re.findall(r"\.dot\.(background|ignored) \{ background: [^#]*(#\w+)", style))
    assert _rgb(dots["ignored"]) == ignored and _rgb(dots["background"] * 2) == colours["background"]

    for name, file in (("labelstudio", "config.xml"), ("cvat", "labelmap.txt"), ("voc", "labelmap.txt")):
        export_masks(name, MaskSource(run / "masks", CLASSES), tmp_path / name, ExportSettings())
        text = next((tmp_path / name).rglob(file)).read_text(encoding="utf-8")
        for class_id in range(1, 20):
            colour = colours[CLASSES[class_id - 1]]
            written = "#{:02x}{:02x}{:02x}" if name == "labelstudio" else "{},{},{}"
            line = next(line for line in text.splitlines() if CLASSES[class_id - 1] in line)
            assert written.format(*colour) in line, (name, line)


def _rgb(colour: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(colour.replace("#", "")[:6]))
