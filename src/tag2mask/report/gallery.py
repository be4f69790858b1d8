"""The gallery: the pictures of each chosen image with their figures."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tag2mask.cams.kinds import KINDS
from tag2mask.data import ImageItem, ImageSet, class_colour, css, read_mask
from tag2mask.data.cam_files import PADDING, CamFile, full_resolution
from tag2mask.data.corrections import FinalMasks
from tag2mask.data.images import IGNORED
from tag2mask.quality.ranking import RankedImage
from tag2mask.report import pictures
from tag2mask.report.pictures import shades
from tag2mask.report.ranking import Notice, Selected, attempt, cam_labels, cam_path, compare, open_cam
from tag2mask.report.settings import ReportSettings
from tag2mask.report.summary import link

Size = tuple[int, int]


@dataclass(frozen=True)
class Layer:
    """A picture over the image; ``tag`` is the class of its heat map, 0 for all classes in their colours."""

    tag: int
    uri: str


@dataclass(frozen=True)
class Share:
    """A part of the bar under the allocation map: a prototype, its colour, its share of the image in [0, 1]."""

    title: str
    colour: str
    share: float


@dataclass(frozen=True)
class Tile:
    """A picture of a card; ``miou`` is that of this image in [0, 1], ``ignored`` the share of pixels of 255."""

    kind: str
    title: str
    layers: tuple[Layer, ...]
    miou: float | None = None
    shares: tuple[Share, ...] = ()
    ignored: float = 0.0
    tone: str = ""


@dataclass(frozen=True)
class Chip:
    """A tag of an image; ``iou`` is that of the mask."""

    class_id: int
    name: str
    colour: str
    iou: float | None
    heat: bool


@dataclass(frozen=True)
class Card:
    """An image; ``height`` and ``width`` are those of its pictures in pixels, ``links`` the titles and addresses of
    its files."""

    id: str
    image: str
    height: int
    width: int
    chips: tuple[Chip, ...]
    tiles: tuple[Tile, ...]
    miou: float | None
    ranked: RankedImage | None
    links: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Filter:
    """A class to filter the gallery by, with its number of cards and its shades, light to dark."""

    class_id: int
    name: str
    cards: int
    shades: tuple[str, ...]


@dataclass
class Gallery:
    """Draws cards.

    Attributes:
        run: the run folder.
        settings: the width of the pictures.
        thresholds: background thresholds by kind of CAM; may lack kinds.
        notice: takes messages about pictures that could not be drawn.
        clusters: most clusters of a class in the drawn cards.
    """

    run: Path
    images: ImageSet
    settings: ReportSettings
    thresholds: dict[str, float]
    notice: Notice
    clusters: int = 1

    def draw(self, entries: Sequence[Selected], *, brief: bool = False) -> list[Card]:
        """The cards in the given order, without unreadable images; ``brief`` ones have smaller pictures and no CAMs."""
        return [card for entry in entries if (card := self._card(entry, brief)) is not None]

    def foreign_tile(self, title: str, path: Path, card: Card, ids: Sequence[int]) -> list[Tile]:
        """A mask from elsewhere for a card, none if its file is gone; ``ids`` are the run's, of 0, 1, … in the mask."""
        labels = attempt(self.notice, read_mask, path, pixel_limit=self.images.pixel_limit) if path.is_file() else None
        if labels is None:
            return []
        table = np.arange(256, dtype=np.uint8)
        table[: len(ids)] = ids
        return self._label_tile("prediction", title, table[labels], (card.height, card.width))

    def filters(self, cards: Sequence[Card]) -> list[Filter]:
        """The classes to filter cards by."""
        shown = Counter(chip.class_id for card in cards for chip in card.chips)
        frequent = sorted(shown, key=lambda class_id: (-shown[class_id], class_id))
        return [Filter(tag, self._name(tag), shown[tag], self.shades(tag)) for tag in frequent]

    def shades(self, class_id: int) -> tuple[str, ...]:
        """The shades of the prototypes of a class as CSS colours."""
        return tuple(map(css, shades(class_id, self.clusters)))

    def _card(self, entry: Selected, brief: bool) -> Card | None:
        item = entry.item
        image = attempt(self.notice, self.images.read_image, item)
        if image is None:
            return None
        full: Size = (image.shape[0], image.shape[1])
        size = pictures.picture_size(full, self.settings.width * 2 // 3 if brief else self.settings.width)
        truth = self._mask(item.truth, full, item)
        tiles = [Tile("image", "Image", ()), *([] if brief else self._steps(item, full, size, truth))]
        mask_path, title = self._final_mask(item)
        mask = self._mask(mask_path, full)
        by_hand = self.images.corrections.has_mask(item.id)  # has no figures, which are those of the method
        miou, iou = (None, dict[int, float]()) if by_hand else self._score(mask, truth)
        tiles += self._label_tile("mask", title, mask, size, miou)
        if (predicted := self._predicted(item)) is not None:
            labels = self._mask(predicted, full)
            tiles += self._label_tile("prediction", "Prediction", labels, size, self._score(labels, truth)[0])
        tiles += [replace(tile, ignored=0.0) for tile in self._label_tile("truth", "Truth", truth, size)]
        with_heat = {layer.tag for tile in tiles for layer in tile.layers}
        chips = tuple(
            Chip(tag, self._name(tag), class_colour(tag), iou.get(tag), tag in with_heat) for tag in item.tags
        )
        uri = pictures.image_uri(image, size)
        shown = None if by_hand else entry.miou if miou is None else miou
        files = {"image": item.path, "mask": mask_path, "prediction": predicted}
        links = tuple((name, link(path, self.run)) for name, path in files.items() if path is not None)
        return Card(item.id, uri, *size, chips, tuple(tiles), shown, entry.ranked, links)

    def _steps(self, item: ImageItem, full: Size, size: Size, truth: np.ndarray | None) -> Iterator[Tile]:
        """The CAMs, and what the edge network read and gave."""
        for kind in KINDS:
            cam = self._cam(cam_path(self.run, kind, item), full)
            if cam is not None:
                yield self._cam_tile(kind, cam, size, truth)
                if cam.allocation is not None:
                    yield self._allocation_tile(cam, size)
        sure = self._mask(self.run / "edges/labels" / f"{item.id}.png", None)
        yield from self._label_tile("sure", "Labels for edges", sure, size)
        yield from self._edge_tile(item)

    def _predicted(self, item: ImageItem) -> Path | None:
        """The prediction for an image, of any split; None without one."""
        folders = sorted((self.run / "predictions").glob("*/"))
        return next((path for folder in folders if (path := folder / f"{item.id}.png").is_file()), None)

    def _final_mask(self, item: ImageItem) -> tuple[Path | None, str]:
        """The file of the final mask with its title; None without a mask."""
        corrections = self.images.corrections
        verdict = corrections.verdicts.get(item.id)
        title = "Mask" if verdict is None else f"Mask, {verdict} by hand"
        masks = FinalMasks(self.run / "masks", corrections)
        path = attempt(self.notice, lambda: masks / f"{item.id}.png")
        return path if path is not None and path.is_file() else None, title

    def _cam_tile(self, kind: str, cam: CamFile, size: Size, truth: np.ndarray | None) -> Tile:
        """All classes in colour, then the heat map of each; with mIoU if the background is known."""
        threshold = self.thresholds.get(kind)
        maps = full_resolution(replace(cam, size=pictures.smooth_size(size)))  # (K, h, w)
        foreground = cam.ids > 0
        ids, maps = cam.ids[foreground], maps[foreground]
        layers = [Layer(0, pictures.activation_uri(maps, ids))] if len(ids) else []
        decided = cam_labels(cam, threshold, size)
        if decided is not None:
            layers.append(Layer(0, pictures.outline_uri(decided)))
        layers += [Layer(int(class_id), pictures.heat_uri(values)) for class_id, values in zip(ids, maps, strict=True)]
        miou = self._score(cam_labels(cam, threshold), truth)[0]
        return Tile(kind, KINDS[kind].heading, tuple(layers), miou=miou, tone=KINDS[kind].tone)

    def _label_tile(
        self, kind: str, title: str, labels: np.ndarray | None, size: Size, miou: float | None = None
    ) -> list[Tile]:
        """Labels in colour, ignored pixels hatched; nothing without labels."""
        if labels is None:
            return []
        uri = pictures.label_uri(pictures.resize_labels(labels, size))
        ignored = float((labels == IGNORED).mean())
        return [Tile(kind, title, (Layer(0, uri),), miou=miou, ignored=ignored)]

    def _edge_tile(self, item: ImageItem) -> list[Tile]:
        """The edges of the random walk; nothing without them."""
        path = self.run / "refine/edges" / f"{item.id}.png"
        if not path.is_file():
            return []
        values = attempt(self.notice, read_mask, path)
        if values is None:
            return []
        return [Tile("edges", "Edges", (Layer(0, pictures.edge_uri(values.astype(np.float32) / 255)),))]

    def _allocation_tile(self, cam: CamFile, size: Size) -> Tile:
        """The allocation map, and the share of each prototype."""
        cells, clusters = cam.allocation, cam.clusters
        if cells is None or not clusters or not len(cam.ids):
            return Tile("allocation", "Allocation", ())
        self.clusters = max(self.clusters, clusters)
        inside = cells[cells != PADDING]
        counts = np.bincount(inside, minlength=len(cam.ids) * clusters)
        colours = np.concatenate([shades(class_id, clusters) for class_id in cam.ids.tolist()])
        shares = tuple(
            Share(f"{self._name(int(cam.ids[number // clusters]))} {number % clusters + 1}", css(colour), share)
            for number, (colour, share) in enumerate(zip(colours, counts / max(1, inside.size), strict=True))
            if share
        )
        uri = pictures.allocation_uri(cells, colours, size)
        return Tile("allocation", "Allocation", (Layer(0, uri),), shares=shares)

    def _score(self, labels: np.ndarray | None, truth: np.ndarray | None) -> tuple[float | None, dict[int, float]]:
        if labels is None or truth is None:
            return None, {}
        return compare(labels, truth, len(self.images.classes))

    def _cam(self, path: Path, size: Size) -> CamFile | None:
        """A CAM file that fits; None if there is none."""
        if not path.is_file():
            return None
        return attempt(self.notice, open_cam, path, classes=len(self.images.classes), size=size)

    def _mask(self, path: Path | None, size: Size | None, truth_of: ImageItem | None = None) -> np.ndarray | None:
        """A mask that fits, or the ground truth of ``truth_of``; None if there is no file."""
        if path is None or not path.is_file():
            return None
        if truth_of is not None:
            return attempt(self.notice, self.images.read_truth, truth_of, size=size)
        limit, classes = self.images.pixel_limit, len(self.images.classes)
        return attempt(self.notice, read_mask, path, size=size, classes=classes, pixel_limit=limit)

    def _name(self, class_id: int) -> str:
        return self.images.classes[class_id - 1] if class_id else "background"
