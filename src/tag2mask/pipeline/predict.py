"""`predict`: masks of photographs by a trained segmentation network, and what each of them says."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console

from tag2mask.data.images import IGNORED, read_image, reduced, write_mask
from tag2mask.data.photo import Photo
from tag2mask.data.photos import PhotoSet, find_photos
from tag2mask.errors import Tag2maskError, UsageError, first_five
from tag2mask.files import atomic_path, read_json, remove_partial, write_json
from tag2mask.networks.checkpoint import NetworkFileError
from tag2mask.origin import image_text, is_of_image_text, mask_origin
from tag2mask.pipeline.config import Config, plain
from tag2mask.pipeline.progress import StageResult, progress_bar
from tag2mask.pipeline.read_bounded import read_bounded
from tag2mask.pipeline.reading import reading_workers
from tag2mask.predictor import Prediction, Predictor, load_segmenter, network_file
from tag2mask.report.pictures import LABEL_ALPHA, Palette, outline, resize_labels

VERSION = 2
"""Of predictions.json; raised whenever the same settings would give other masks."""

OVERLAY_SIDE = 2048
"""Pixels of an overlay's longer side at most."""

_TOGETHER_PIXELS = 1 << 23
"""Photographs wait for each other to go through the network together while they have fewer pixels than this."""

_SAVE_SECONDS = 20.0
"""How often what was found is written down; a kill costs no more than what was found since."""

Found = dict[str, dict[str, Any]]


class Request:
    """What was asked for, and the record in the folder of the masks.

    Args:
        config: `out`, `device`, `workers`, `limit`, `shard`, `data.pixel_limit`, `data.intensity` (None: as the network
            was trained) and `predict` are read.
        place: a folder with photographs, an image, or a pattern.
        model: the checkpoint, or the folder of a run that trained one.
        overlays: also the masks laid over the photographs.
        again: make everything again.

    Raises:
        UsageError: no photograph, no folder, no network, or the folder holds masks of something else.
    """

    def __init__(self, config: Config, place: str, model: Path, *, overlays: bool = False, again: bool = False) -> None:
        """Look at everything that can be looked at without reading a photograph; nothing is written."""
        if config.out is None:
            raise UsageError("predict needs --out FOLDER, where the masks go")
        self.config, self.out, self.overlays, self.again = config, config.out, overlays, again
        if self.out.exists() and not self.out.is_dir():
            raise UsageError(f"--out {self.out} is a file; it should name a folder")
        self.model = network_file(model)
        if not self.model.is_file():
            raise UsageError(f"--model {self.model} does not exist; give the .safetensors of `tag2mask segment`")
        if again and config.shard is not None:
            raise UsageError("--again with --shard would delete what other shards make; use another --out instead")
        photos = find_photos(Path(place), skip=None if _is_same(self.out, Path(place)) else self.out)
        self.photos = _of_this_command(photos, config)
        self.root = photos.root
        if _is_same(self.root, self.out):
            raise UsageError(f"--out {self.out} is the folder of the photographs; choose another one for the masks")
        own = plain(config.predict, affecting=True)
        if config.data.intensity is not None:
            own["data.intensity"] = list(config.data.intensity)
        self.claim = {"version": VERSION, "model": _digest(self.model), "settings": own}
        self.earlier = self._recorded()

    @property
    def record(self) -> Path:
        """The file in which this command writes down what it found: each shard has its own."""
        number, count = self.config.shard_of()
        return self.out / ("predictions.json" if count == 1 else f"predictions-{number}-of-{count}.json")

    def mask(self, photo_id: str) -> Path:
        """Where the mask of a photograph goes."""
        return self.out / f"{photo_id}.png"

    def overlay(self, photo_id: str) -> Path:
        """Where its overlay goes."""
        return self.out / f"overlays/{photo_id}.jpg"

    def batches(self) -> list[list[Photo]]:
        """Photographs that are read together; one whole where anything of it is missing.

        What is made of a photograph does so not depend on which others were there already.
        """
        step = self.config.predict.batch_size
        whole = [list(self.photos[first : first + step]) for first in range(0, len(self.photos), step)]
        return [batch for batch in whole if any(self.is_missing(photo) for photo in batch)]

    def is_missing(self, photo: Photo) -> bool:
        """Whether anything that was asked for of a photograph is not there, or is of another image."""
        if photo.id not in self.earlier or (self.overlays and not self.overlay(photo.id).is_file()):
            return True
        mask = self.mask(photo.id)
        recorded = mask_origin(mask)
        return recorded is None or not is_of_image_text(recorded, photo.path, mask)

    def plan(self) -> str:
        """What would be done, in one line."""
        missing = sum(map(self.is_missing, self.photos))
        return (
            f"predict: {missing} of {len(self.photos)} photographs to label with {self.model}, "
            f"masks{' and overlays' if self.overlays else ''} to {self.out}"
        )

    def clear(self) -> None:
        """Delete what earlier commands made, where everything is to be made again."""
        for path in _records(self.out):
            for photo_id in _photographs(path):
                self.mask(photo_id).unlink(missing_ok=True)
                self.overlay(photo_id).unlink(missing_ok=True)
            path.unlink()

    def _recorded(self) -> Found:
        """What the records say, of all shards; nothing where all is to be made again.

        Raises:
            UsageError: they are of another network or other settings, or there are masks without a record.
        """
        records = _records(self.out)
        foreign = [self.mask(photo.id) for photo in self.photos if not records and self.mask(photo.id).exists()]
        if foreign:
            raise UsageError(f"{foreign[0]} was not made by predict, which would overwrite it; use another --out")
        found: Found = {}
        for path in records:
            found |= _photographs(path)
            differing = _differences(read_json(path)["made_by"], self.claim)
            if differing and not self.again:
                raise UsageError(
                    f"{self.out} holds masks of other settings: {first_five(differing)}; use another --out, or "
                    "--again to make them all again"
                )
        return {} if self.again else found


def predict(request: Request, console: Console) -> StageResult:
    """Label the photographs that have no mask yet.

    Written are ID.png for each, where asked for overlays/ID.jpg, and predictions.json.

    Raises:
        NetworkFileError: the network cannot be read.
        UsageError: no such device.
    """
    config, result = request.config, StageResult("predict")
    network = load_segmenter(request.model)
    predictor = Predictor(network, config.device, config.predict, intensity=config.data.intensity)
    if request.again:
        request.clear()
    remove_partial(request.out)
    batches = request.batches()
    wanted = {photo.id for batch in batches for photo in batch if request.is_missing(photo)}
    result.skipped = len(request.photos) - len(wanted)
    classes = ("background", *predictor.classes)
    palette = Palette(range(1, len(classes)))
    mine = {photo.id for photo in request.photos}
    found = request.earlier if config.shard is None else {k: v for k, v in request.earlier.items() if k in mine}

    def save() -> None:
        values = {
            "made_by": request.claim,
            "network": str(request.model),
            "classes": list(classes),
            "photographs": dict(sorted(found.items())),
            "failed": result.failed,
        }
        write_json(request.record, values)

    save()
    saved, origins = monotonic(), dict[str, str]()
    try:
        with progress_bar(console, "predict", len(wanted)) as advance:
            for photos, images in _groups(batches, config, predictor, result, origins):
                for photo, image, prediction in zip(photos, images, predictor.predictions(images), strict=True):
                    origin = origins.pop(photo.id)
                    if photo.id not in wanted:
                        continue
                    write_mask(request.mask(photo.id), prediction.labels, made_from=origin)
                    if request.overlays:
                        _write_overlay(request.overlay(photo.id), image, prediction.labels, palette)
                    found[photo.id] = _said(photo, request.root, prediction, classes)
                    result.done += 1
                if monotonic() - saved > _SAVE_SECONDS:
                    save()
                    saved = monotonic()
                advance(result.done)
    finally:
        for photo_id in result.failed:  # what an earlier photograph of that name was does not count any more
            found.pop(photo_id, None)
        save()
    return result


def _of_this_command(photos: PhotoSet, config: Config) -> Sequence[Photo]:
    """The photographs up to the limit, and of those every n-th batch where there are shards."""
    chosen = photos.photos[: config.limit]
    number, count = config.shard_of()
    step = config.predict.batch_size
    starts = range(step * (number - 1), len(chosen), step * count)
    return [photo for first in starts for photo in chosen[first : first + step]]


def _groups(
    batches: list[list[Photo]], config: Config, predictor: Predictor, result: StageResult, origins: dict[str, str]
) -> Iterator[tuple[list[Photo], list[np.ndarray]]]:
    """Photographs with their pixels, those of a batch together unless they are large; the broken ones have failed.

    ``origins`` takes the record of each image, as it is when it is read, by ID.
    """
    limit = config.data.pixel_limit

    def read(photo: Photo) -> np.ndarray | str:
        origins[photo.id] = image_text(photo.path)
        try:
            return read_image(photo.path, pixel_limit=limit, intensity=predictor.intensity)
        except Tag2maskError as error:
            return str(error)

    ends = {batch[-1].id for batch in batches}
    photos: list[Photo] = []
    images: list[np.ndarray] = []
    flat = [photo for batch in batches for photo in batch]
    for photo, answer in read_bounded(flat, read, workers=max(1, reading_workers(config)), pixel_limit=limit):
        if isinstance(answer, str):
            result.failed[photo.id] = answer
        else:
            if images and sum(image.size for image in (*images, answer)) > 3 * _TOGETHER_PIXELS:
                yield photos, images
                photos, images = [], []
            photos.append(photo)
            images.append(answer)
        if photo.id in ends and images:
            yield photos, images
            photos, images = [], []


def _said(photo: Photo, root: Path, prediction: Prediction, classes: Sequence[str]) -> dict[str, Any]:
    """What predictions.json says of a photograph; fractions in [0, 1], of the classes that it has."""
    present = [(number, name) for number, name in enumerate(classes) if prediction.pixels[number]]
    return {
        "image": photo.path.relative_to(root).as_posix(),
        "size": list(prediction.labels.shape),
        "shares": {name: round(float(prediction.shares[number]), 6) for number, name in present},
        "confidence": round(prediction.confidence, 4),
        "class_confidence": {name: round(float(prediction.class_confidence[number]), 4) for number, name in present},
    }


def _write_overlay(path: Path, image: np.ndarray, labels: np.ndarray, palette: Palette) -> None:
    """The mask in the report's colours over the photograph, as JPEG, at most `OVERLAY_SIDE` pixels long."""
    small = reduced(image, OVERLAY_SIDE)
    own = resize_labels(labels, (small.shape[0], small.shape[1]))
    colours = np.zeros((256, 3), dtype=np.float32)
    opacity = np.zeros(256, dtype=np.float32)
    for class_id in np.unique(own).tolist():
        if class_id not in (0, IGNORED):
            colours[class_id], opacity[class_id] = palette.colour(class_id), LABEL_ALPHA / 255
    strength = opacity[own][..., None]
    mixed = (small * (1 - strength) + colours[own] * strength).round().astype(np.uint8)
    mixed[outline(own)] = 255
    with atomic_path(path) as temporary:
        Image.fromarray(mixed).save(temporary, format="JPEG", quality=88)


def _is_same(one: Path, other: Path) -> bool:
    """Whether two paths name one folder, there or not."""
    return os.path.abspath(one) == os.path.abspath(other)  # noqa: PTH100 - unlike Path.absolute it takes out ".."


def _records(folder: Path) -> list[Path]:
    return sorted(folder.glob("predictions.json")) + sorted(folder.glob("predictions-*-of-*.json"))


def _photographs(path: Path) -> Found:
    """What a record says of each photograph.

    Raises:
        UsageError: it is none.
    """
    try:
        said = read_json(path)
        found: Found = said["photographs"]
        made_by = said["made_by"]
        if all(isinstance(value, dict) for value in (found, made_by["settings"])) and made_by["model"]:
            return found
    except (Tag2maskError, KeyError, TypeError):
        pass
    raise UsageError(f"{path} is no record of predict, or damaged; use another --out, or delete it and its masks")


def _digest(path: Path) -> str:
    """SHA-256 of the checkpoint: a network is the same wherever it lies."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise NetworkFileError(f"{path} could not be read ({error.strerror})") from error


def _differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs, in words."""
    found = []
    if before.get("version") != now["version"]:
        found.append(f"they are of version {before.get('version')} of predict, this is {now['version']}")
    if before["model"] != now["model"]:
        found.append("the network was another one")
    for name in sorted(before["settings"].keys() | now["settings"].keys()):
        old, new = before["settings"].get(name), now["settings"].get(name)
        if json.dumps(old, sort_keys=True) != json.dumps(new, sort_keys=True):
            found.append(f"{name if '.' in name else f'predict.{name}'} was {old!r} and is {new!r}")
    return found
