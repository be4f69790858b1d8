"""A small run to review, made without training: images, tags, masks, CAMs and predictions of 20 classes."""

from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from tag2mask.data import DataSettings, write_mask
from tag2mask.data.cam_files import CamFile, write_cam
from tag2mask.data.corrections import CorrectionsFolder
from tag2mask.review import Session, reviewed_images
from tag2mask.runs.config import Config
from tag2mask.runs.run_folder import RunFolder

CLASSES = (*(f"class {number:02d}" for number in range(1, 20)), "<b>öl & co</b>")
SIZE = (60, 80)
IDS = ("one", "trip/two & 東京", "turned", "broken", "last")
TAGS = {"one": (1, 20), "trip/two & 東京": (2,), "turned": (1,), "broken": (3,), "last": (2, 3)}
VALUES = (*range(21), 255)


def build_run(folder: Path) -> Path:
    """A run folder; `turned` lies on its side in its file, `broken` is no image, `last` has a prediction alone."""
    data, run = folder / "data", folder / "run"
    lines = ["image,tags"]
    for number, image_id in enumerate(IDS):
        path = data / f"{image_id}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_photo(path, number, turned=image_id == "turned")
        lines.append(f"{image_id}.jpg,{';'.join(CLASSES[tag - 1] for tag in TAGS[image_id])}")
        if image_id != "last":
            write_mask(run / "masks" / f"{image_id}.png", every_value(number))
        write_cam(run / "cams" / "pot" / f"{image_id}.npz", _cam(TAGS[image_id]))
    (data / "broken.jpg").write_bytes(b"no image")
    write_mask(run / "predictions" / "val" / "last.png", every_value(9))
    (data / "tags.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (data / "classes.txt").write_text("\n".join(CLASSES) + "\n", encoding="utf-8")
    settings = DataSettings(root=data, classes=str(data / "classes.txt"))
    RunFolder(run).record_config(Config(out=run, data=settings))
    return run


def open_session(run: Path) -> Session:
    """The review of a run that `build_run` made."""
    data = run.parent / "data"
    config = Config(out=run, data=DataSettings(root=data, classes=str(data / "classes.txt")))
    folder = RunFolder(run)
    images = reviewed_images(config, folder)
    return Session(images, folder, CorrectionsFolder(run / "corrections", images.classes), pixel_limit=100_000)


def every_value(seed: int) -> np.ndarray:
    """A mask that holds every class, background and 255: uint8 (H, W)."""
    rng = np.random.default_rng(seed)
    blocks = rng.permutation(np.resize(np.array(VALUES, dtype=np.uint8), 15 * 20)).reshape(15, 20)
    return np.repeat(np.repeat(blocks, 4, axis=0), 4, axis=1)


def disc_along(mask: np.ndarray, start: tuple[int, int], end: tuple[int, int], diameter: int, value: int) -> np.ndarray:
    """What a brush leaves: the pixels whose middle is nearer to the line than half of it; points are x, y."""
    painted = mask.copy()
    (x0, y0), (x1, y1) = start, end
    rows, columns = np.indices(mask.shape)
    for share in np.linspace(0, 1, 2001):
        away = np.hypot(x0 + share * (x1 - x0) - columns, y0 + share * (y1 - y0) - rows)
        painted[away < diameter / 2] = value
    return painted


def _write_photo(path: Path, seed: int, *, turned: bool) -> None:
    pixels = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).resize((SIZE[1], SIZE[0]), Image.Resampling.BICUBIC)
    if not turned:
        image.save(path, quality=95)
        return
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # to be turned clockwise
    image.transpose(Image.Transpose.ROTATE_90).save(path, quality=95, exif=exif)


def _cam(tags: tuple[int, ...]) -> CamFile:
    """Background on the left, the classes from left to right."""
    ids = np.array((0, *tags), dtype=np.int32)
    maps = np.zeros((len(ids), 3, 4 * len(ids)), dtype=np.float16)
    for index in range(len(ids)):
        maps[index, :, 4 * index : 4 * index + 4] = 0.8
    return CamFile(ids, maps, SIZE)
