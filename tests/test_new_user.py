"""What docs/quickstart-photographs.md says, done as it stands: from images to corrected masks for other tools.

A machine without a network and without hours changes one command: `run` gets a backbone that is at hand, small batches
and small views.
"""

import csv
import gzip
import json
import re
import shlex
from collections.abc import Iterator, Mapping
from http.client import HTTPConnection
from pathlib import Path
from shutil import copy
from time import monotonic, sleep
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt
import pytest
from pycocotools.coco import COCO

from forked import started

PAGE = Path(__file__).parent.parent / "docs/quickstart-photographs.md"
SMALL = {
    "--train.batch_size": "4",
    "--train.augment.crop": "96",
    "--train.augment.long_side": "[96,128]",
    "--cams.long_side": "160",
    "--refine.long_side": "160",
}
CLASSES = ("cat", "dog")
EACH = 7
WIDE = {"COLUMNS": "200"}

Mask = npt.NDArray[np.uint8]


class Review:
    """The page of a review, as a browser talks to it."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        self.connection, self.path = HTTPConnection(parts.hostname or "", parts.port or 0, timeout=60), parts.path

    def get(self, path: str) -> bytes:
        return self._answer("GET", path)

    def put(self, path: str, body: bytes, kind: str) -> None:
        self._answer("PUT", path, body, {"Content-Type": kind})

    def _answer(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> bytes:
        self.connection.request(method, f"{self.path}{path}", body, headers or {})
        answer = self.connection.getresponse()
        content = answer.read()
        assert answer.status < 400, content
        if answer.getheader("Content-Encoding") == "gzip":
            content = gzip.decompress(content)
        return content


@pytest.fixture
def images(real_data: Path, tmp_path: Path) -> Path:
    """A few images and their tags, without masks, where the page says that they are."""
    source = real_data / "data/voc-animals"
    with (source / "tags.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["tags"] in CLASSES]
    folder = tmp_path / "photographs"
    folder.mkdir()
    chosen = [row for name in CLASSES for row in [row for row in rows if row["tags"] == name][:EACH]]
    lines = ["image,tags"]
    for row in chosen:
        copy(source / row["image"], folder)
        lines.append(f"{Path(row['image']).name},{row['tags']}")
    (folder / "tags.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def _commands() -> Iterator[list[str]]:
    """The commands that the page has people type, in order."""
    for block in re.findall(r"```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        yield from (shlex.split(line) for line in block.splitlines() if line)


@pytest.mark.data
def test_the_quickstart_for_people_with_images(images: Path, real_data: Path, tmp_path: Path) -> None:
    verbs, decided = [], {}
    for words in _commands():
        assert words[0] == "tag2mask"
        verbs.append(words[1])
        if words[1] == "run":
            words += ["--network.backbone", str(real_data / "weights/mobilenet_v2_1.0_224")]
            words += [word for pair in SMALL.items() for word in pair]
        began = monotonic()
        if words[1] == "review":
            decided = _reviewed(words, tmp_path)
        else:
            command = started(words[1:], tmp_path / f"said/{len(verbs)}", folder=tmp_path, environment=WIDE)
            assert command.code() == 0 and "Traceback" not in command.errors, command.errors
        print(f"{monotonic() - began:5.1f} s  {' '.join(words[:3])}")  # pytest -rP shows it
    assert verbs == ["doctor", "check", "run", "report", "check", "confidence", "review", "export", "export"]
    _assert_page_and_ranking(tmp_path / "runs/mine")
    _assert_coco(tmp_path / "runs/mine-coco", decided)


def _reviewed(words: list[str], folder: Path) -> dict[str, Mask | None]:
    """Three decisions: the first image is painted over, the second one accepted, the third one rejected."""
    command = started(words[1:], folder / "said/review", folder=folder, environment=WIDE)
    until = monotonic() + 200
    while not (shown := re.search(r"^open (http\S+)", command.said, re.MULTILINE)):
        assert command.process.is_alive() and monotonic() < until, command.errors
        sleep(0.05)
    review = Review(shown[1])
    listed = json.loads(review.get("api/images?order=confidence"))["images"]
    decided: dict[str, Mask | None] = {}
    for number, entry in enumerate(listed[:3]):
        own = json.loads(review.get(f"api/images/{entry['index']}"))
        mask = np.frombuffer(review.get(f"api/images/{entry['index']}/labels/{own['start']}"), dtype=np.uint8).reshape(
            own["size"]
        )
        if number == 0:
            mask = mask.copy()
            mask[10:60, 20:90] = 2
        if number == 2:
            review.put(f"api/images/{entry['index']}/verdict", b'{"verdict": "rejected"}', "application/json")
        else:
            verdict = ("corrected", "accepted")[number]
            review.put(
                f"api/images/{entry['index']}/mask?verdict={verdict}", mask.tobytes(), "application/octet-stream"
            )
        decided[entry["id"]] = None if number == 2 else mask
    command.process.terminate()  # as Ctrl-C does; what a shell started in the background does not hear that
    assert command.code() == 0 and not command.errors
    assert "1 accepted, 1 corrected, 1 rejected" in command.said
    return decided


def _assert_page_and_ranking(run: Path) -> None:
    assert (run / "report.html").read_text(encoding="utf-8").rstrip().endswith("</html>")
    assert len(list((run / "masks").glob("*.png"))) == 2 * EACH
    with (run / "confidence/images.csv").open(encoding="utf-8") as file:
        confidence = [float(row["confidence"] or -1) for row in csv.DictReader(file)]  # unknown ones first
    assert len(confidence) == 2 * EACH and confidence == sorted(confidence) and confidence[-1] > 0


def _assert_coco(folder: Path, decided: dict[str, Mask | None]) -> None:
    """The exported annotations are the decided masks, pixel for pixel; what was rejected is not among them."""
    (file,) = folder.glob("annotations/*.json")
    coco = COCO(str(file))
    numbers = {Path(image["file_name"]).stem: image["id"] for image in coco.loadImgs(coco.getImgIds())}
    assert len(numbers) == 2 * EACH - 1
    for image_id, mask in decided.items():
        assert (image_id in numbers) == (mask is not None)
        if mask is None:
            continue
        found = np.zeros_like(mask)
        for annotation in coco.loadAnns(coco.getAnnIds(imgIds=numbers[image_id])):
            found[coco.annToMask(annotation) == 1] = annotation["category_id"]
        assert (found == np.where(mask == 255, 0, mask)).all()
