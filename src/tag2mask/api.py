"""The Python interface: ``run`` and ``masks`` make masks, ``load`` opens a trained network, `Run` a run folder."""

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from html import escape
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from tag2mask.cli.commands import COMMANDS
from tag2mask.cli.parsing import Parsed, parse
from tag2mask.cli.stages import require_run
from tag2mask.core.errors import Tag2maskError, UsageError
from tag2mask.core.files import write_text
from tag2mask.data.classes import did_you_mean
from tag2mask.data.corrections import Verdict
from tag2mask.data.images import image_size, read_image, read_mask, write_mask
from tag2mask.data.manifest import ImageItem
from tag2mask.prediction.predictor import Prediction, Predictor, load
from tag2mask.quality.ranking import Ranking
from tag2mask.report.pictures import image_uri, overlay, picture_size
from tag2mask.runs.corrections import final_masks
from tag2mask.runs.dataset import run_images
from tag2mask.runs.run_folder import RunFolder
from tag2mask.stages.registry import require_classes

__all__ = ["Prediction", "Predictor", "Run", "RunImage", "load", "masks", "run"]

_SHOWN = 8
"""Images in the HTML of a run."""

_WIDTH = 240
"""Pixels of their width."""


def run(
    images: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    tags: str | os.PathLike[str] | Mapping[str, Sequence[str]] | Sequence[Sequence[str]] | None = None,
    *,
    out: str | os.PathLike[str],
    config: str | os.PathLike[str] | None = None,
    restart: str | None = None,
    overlays: bool = False,
    quiet: bool = False,
    **settings: Any,
) -> "Run":
    """Make masks of images from their tags, with all stages that are not done yet: the command ``tag2mask run``.

    It shows progress in a terminal and in a notebook. After an interruption, the same call resumes.

    Args:
        images: a folder in a layout that the command reads, or a list of image files; IDs are relative to the folder
            that the files have in common.
        tags: the names of the classes in each image: ``{image: [names]}`` with paths relative to the folder, a list
            parallel to ``images``, or a table; None if the folder has them. An empty list means none of the classes.
        out: the run folder.
        config: a preset or a file of settings; None takes those of the run folder, or the preset `own`.
        restart: delete the outputs of this stage and of all stages that read it first.
        overlays: also write the masks over the images.
        quiet: show neither progress nor notes.
        settings: sections, as ``train={"steps": 100}``, or single settings, as ``seed=1``.

    Returns:
        the run; `Run.failed` has the images that could not be done.

    Raises:
        UsageError: arguments, settings or data are wrong.
        Tag2maskError: a stage failed.
        Interrupted: Ctrl-C came; finished work is kept.

    Examples:
        >>> import tag2mask
        >>> run = tag2mask.run("images", out="runs/new", config="small.yaml", quiet=True, train={"steps": 2})
        >>> run.masks.name, len(run.images), run.failed
        ('masks', 14, {})
    """
    if "repeats" in settings:
        raise UsageError("run makes one run; call it once per seed, each with a `seed` and an `out` of its own")
    place, table, content = images, tags, ""
    if not isinstance(images, str | os.PathLike) or not (tags is None or isinstance(tags, str | os.PathLike)):
        place, content = _table(images, tags)
        # Named by its content: the table of an earlier call stays, whatever becomes of this one.
        table = Path(out) / f"tags-{hashlib.sha256(content.encode()).hexdigest()[:8]}.csv"
    given = {"out": out, "config": config, "data.tags": table, "restart": restart}
    return _run("run", place, given, settings, overlays=overlays, quiet=quiet, table=content)


def masks(
    images: str | os.PathLike[str],
    classes: Sequence[str] | str | os.PathLike[str] | None = None,
    *,
    out: str | os.PathLike[str],
    model: str | os.PathLike[str] | None = None,
    config: str | os.PathLike[str] | None = None,
    restart: str | None = None,
    overlays: bool = False,
    quiet: bool = False,
    **settings: Any,
) -> "Run":
    """Make masks of images by the names of classes, without tags and training: the command ``tag2mask masks``.

    Args:
        images: a folder with images.
        classes: the names, or a file with them; None takes those of a VOC or COCO root, or of the run folder.
        out: the run folder.
        model: a CLIPSeg, SAM 3 or TIPSv2 of `transformers`, by name or as a folder; None takes that of the settings.
        config: a preset or a file of settings; None takes those of the run folder, or the preset `words`.
        restart: delete the outputs of this stage and of all stages that read it first; `cams` asks the model again.
        overlays: also write the masks over the images.
        quiet: show neither progress nor notes.
        settings: sections, as ``refine={"method": "crf"}``, or single settings, as ``limit=10``.

    Returns:
        the run; its tags are the classes that the model found.

    Raises:
        UsageError: arguments, settings or data are wrong.
        Tag2maskError: the model could not be loaded, or finds none of the classes.
        Interrupted: Ctrl-C came; finished work is kept.

    Examples:
        >>> import tag2mask
        >>> run = tag2mask.masks("images", ["dab", "fen"], out="runs/words", model="clipseg", quiet=True, workers=0)
        >>> run.classes, run.failed
        (('dab', 'fen'), {})
    """
    names = classes
    if isinstance(classes, Sequence) and not isinstance(classes, str):
        if commas := [name for name in classes if "," in name]:
            raise UsageError(f"`{commas[0]}` holds a comma, which separates names; give a file with a name per line")
        names = ",".join((*classes, ""))  # the last comma says that a single name is not a file
    given = {"classes": names, "out": out, "model": model, "config": config, "restart": restart}
    return _run("masks", images, given, settings, overlays=overlays, quiet=quiet)


def _run(
    command: str,
    place: Any,
    given: Mapping[str, Any],
    settings: Mapping[str, Any],
    *,
    overlays: bool,
    quiet: bool,
    table: str = "",
) -> "Run":
    """Do a command that makes a run, after its tags table with the content ``table`` is written."""
    values = {name: value for name, value in given.items() if value is not None} | _flat(settings)
    words = [f"--{name}={_text(value)}" for name, value in values.items()]
    words += [option for option, wanted in (("--overlays", overlays), ("--quiet", quiet)) if wanted]
    function, call, arguments = _parsed(command, [*words, "--", _text(place)])
    if table:
        write_text(Path(_text(given["data.tags"])), table)
    function(replace(call, shows_result=False), **arguments)
    result = Run(_text(given["out"]))
    result.failed = {name: reason for each in call.results for name, reason in each.failed.items()}
    return result


class RunImage:
    """An image of a run, with its tags, its mask and the confidence of the mask.

    Attributes:
        id: the image ID.
        path: the image file.
        tags: the names of the classes in it.
        confidence: the estimated mean IoU of the mask, in [0, 1]; None if unknown.
        verdict: of a review: `accepted`, `corrected`, `rejected` (not to be used), or None.

    Examples:
        >>> import tag2mask
        >>> image = tag2mask.Run("runs/mine").images[0]
        >>> image.id, image.tags
        ('train/0000', ('dab',))
        >>> image.mask().shape == image.mask("dab").shape == image.pixels().shape[:2]
        True
        >>> image.overlay().save("overlay.png")
        >>> image.save("mask.png")
    """

    def __init__(self, run: "Run", item: ImageItem, tags: tuple[str, ...], confidence: float | None) -> None:
        """Keep what is known; nothing is opened."""
        self.id, self.path, self.tags, self.confidence = item.id, item.path, tags, confidence
        self.verdict: Verdict | None = run.verdicts.get(item.id)
        self._run = run

    def pixels(self) -> npt.NDArray[np.uint8]:
        """The image, uint8 (H, W, 3) RGB, upright.

        Raises:
            ImageError: the file cannot be read.
        """
        data = self._run.config.data
        return read_image(self.path, pixel_limit=data.pixel_limit, intensity=data.intensity)

    def mask(self, name: str | None = None) -> npt.NDArray[Any]:
        """The final mask: the correction by hand if there is one, otherwise the pseudo mask.

        Args:
            name: of a class, or `background`.

        Returns:
            uint8 (H, W): 0 background, 1..C the classes, 255 ignored; with ``name``, bool (H, W), its pixels.

        Raises:
            UsageError: there is no such class.
            MaskError: there is no mask, or it does not fit the image.
            ImageError: the image file cannot be read.
            Tag2maskError: a correction of it is damaged.
        """
        limit = self._run.config.data.pixel_limit
        size = image_size(self.path, pixel_limit=limit)
        labels = read_mask(self._run.final_mask(self.id), size=size, classes=len(self._run.classes), pixel_limit=limit)
        if name is None:
            return labels
        names = ("background", *self._run.classes)
        if name not in names:
            raise UsageError(f"the run has no class `{name}`{did_you_mean(name, names)}; it has {', '.join(names)}")
        return np.asarray(labels == names.index(name))

    def overlay(self) -> Image.Image:
        """The mask over the image, at most 2048 pixels long."""
        return Image.fromarray(overlay(self.pixels(), self.mask()))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the final mask as an 8-bit palette PNG of class ids."""
        write_mask(Path(path), self.mask())

    def _repr_png_(self) -> bytes:
        content = io.BytesIO()
        self.overlay().save(content, "PNG")
        return content.getvalue()

    def __repr__(self) -> str:
        confidence = "unknown" if self.confidence is None else f"{self.confidence:.2f}"
        return f"RunImage({self.id!r}, tags={list(self.tags)}, confidence={confidence})"


class Run:
    """A run folder: its images with their masks, its figures and its report; notebooks show it with overlays.

    Tags and corrections are those of the moment at which it is opened.

    Args:
        path: a folder that ``tag2mask.run`` or the command line wrote.

    Attributes:
        path: the folder.
        config: all settings.
        classes: C names, without background; class id = index + 1.
        verdicts: the decisions of reviews about masks, by image ID.
        failed: the reason for each image that `run` could not do.

    Raises:
        UsageError: it is not a run folder, or the classes of its data have changed since.

    Examples:
        >>> import tag2mask
        >>> run = tag2mask.Run("runs/mine")
        >>> run
        Run('runs/mine', 10 images, classes: dab, fen)
        >>> run["train/0000"].mask("dab").dtype
        dtype('bool')
        >>> len(run.ranking()) == len(run.images)
        True
        >>> sorted(run.figures)
        ['cams', 'refine', 'segment']
        >>> run.report.name
        'report.html'
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Read the settings and the list of images."""
        self.path = Path(path)
        require_run(self.path)
        self.config = _parsed("report", ["--", str(self.path)])[1].config
        self._folder = RunFolder(self.path)
        self._set = run_images(self.config, self._folder)
        self.classes = tuple(self._set.classes)
        require_classes(self._folder, self.classes)
        self.verdicts: Mapping[str, Verdict] = self._set.corrections.verdicts
        self.failed: dict[str, str] = {}

    @property
    def masks(self) -> Path:
        """The folder of the pseudo masks, ID.png; `classes.json` in it has the class ids."""
        return self.path / "masks"

    @property
    def report(self) -> Path:
        """The page about the run."""
        return self.path / "report.html"

    @property
    def figures(self) -> dict[str, Any]:
        """Figures against ground truth, {stage: {split: {kind: {figure: value}}}}; empty if there is no truth."""
        return self._folder.metrics() if (self.path / "metrics.json").is_file() else {}

    @cached_property
    def images(self) -> tuple[RunImage, ...]:
        """The images, in the order of the data set."""
        known = Ranking.of(self.path).by_id
        names = self.classes

        def of(item: ImageItem) -> RunImage:
            confidence = known[item.id].confidence if item.id in known else None
            return RunImage(self, item, tuple(names[number - 1] for number in item.tags), confidence)

        return tuple(map(of, self._set.items))

    def ranking(self) -> list[RunImage]:
        """The images, least certain mask first; in the order of the data set if the run has no confidence."""
        order = Ranking.of(self.path).order([image.id for image in self.images])
        return [self.images[number] for number in order]

    def final_mask(self, image_id: str) -> Path:
        """The file of the final mask of an image: a correction by hand, or the pseudo mask.

        Raises:
            Tag2maskError: the correction is damaged.
        """
        return final_masks(self._folder, self._set) / f"{image_id}.png"

    def __getitem__(self, image_id: str) -> RunImage:
        """An image by its ID.

        Raises:
            UsageError: there is no such image.
        """
        for image in self.images:
            if image.id == image_id:
                return image
        similar = did_you_mean(image_id, [image.id for image in self.images])
        raise UsageError(f"{self.path} has no image {image_id}{similar}")

    def __iter__(self) -> Iterator[RunImage]:
        """The images, in the order of the data set."""
        return iter(self.images)

    def __len__(self) -> int:
        """The number of images."""
        return len(self._set)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, {len(self)} images, classes: {', '.join(self.classes)})"

    def _repr_html_(self) -> str:
        measured = [
            (split, f"{stage}: {kind}", f"{100 * values['miou']:.1f}")
            for stage, splits in self.figures.items()
            for split, kinds in splits.items()
            for kind, values in kinds.items()
            if values.get("miou") is not None
        ]
        rows = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in measured)
        table = f"<table><tr><th>split</th><th>what</th><th>mIoU, %</th></tr>{rows}</table>" if rows else ""
        figures = (_figure(image) for image in self.ranking() if self._has_mask(image))
        return f"<p>{escape(repr(self))}</p>{table}{''.join(islice(figures, _SHOWN))}"

    def _has_mask(self, image: RunImage) -> bool:
        try:
            return image.verdict != "rejected" and self.final_mask(image.id).is_file()
        except Tag2maskError:
            return True  # `_figure` says what is wrong


def _parsed(name: str, words: list[str]) -> Parsed:
    """A parsed command line, in which no word asks for help."""
    return cast("Parsed", parse(name, COMMANDS[name], words))


def _figure(image: RunImage) -> str:
    """An image with its mask as HTML, or why it cannot be shown."""
    try:
        pixels = np.asarray(image.overlay())
    except Tag2maskError as error:
        return f"<p>{escape(image.id)}: {escape(str(error))}</p>"
    uri = image_uri(pixels, picture_size((pixels.shape[0], pixels.shape[1]), _WIDTH))
    known = "unknown" if image.confidence is None else f"{image.confidence:.2f}"
    caption = f"{escape(image.id)}: {escape(', '.join(image.tags))}; confidence {known}"
    return f'<figure style="display:inline-block"><img src="{uri}" alt=""><figcaption>{caption}</figcaption></figure>'


def _table(images: Any, tags: Any) -> tuple[Path, str]:
    """The folder that the images have in common, and the text of a tags table relative to it."""
    folder = Path(images) if isinstance(images, str | os.PathLike) else None
    if isinstance(tags, str | os.PathLike):
        raise UsageError(f"{tags} is a table: `images` should be the folder that it is relative to, not a list")
    if isinstance(tags, Mapping):
        pairs = list(tags.items())
        if folder is None and (unknown := {*map(os.fspath, images)} ^ {os.fspath(name) for name, _ in pairs}):
            raise UsageError(f"{len(unknown)} of `images` and `tags` have no partner, such as {sorted(unknown)[0]}")
    elif folder is not None:
        raise UsageError("with a folder as `images`, `tags` are {image: [names]} or a table; a list has no image names")
    elif tags is None or len(tags) != len(images):
        given = "none" if tags is None else len(tags)
        raise UsageError(f"{len(images)} images need as many lists of tags, received {given}")
    else:
        pairs = list(zip(images, tags, strict=True))
    if not pairs:
        raise UsageError("there is no image; give a folder, or a list of image files")
    if folder is None:
        paths = [Path(os.path.abspath(name)) for name, _ in pairs]  # noqa: PTH100 - it takes out ".."
        folder = Path(os.path.commonpath([path.parent for path in paths]))
        pairs = [(path.relative_to(folder), names) for path, (_, names) in zip(paths, pairs, strict=True)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "tags"])
    for name, own in pairs:
        named = isinstance(own, Iterable) and not isinstance(own, str)
        if not named or not all(isinstance(each, str) and ";" not in each for each in own):
            raise UsageError(f"the tags of {name} should be a list of names without `;`, received {own!r}")
        writer.writerow([Path(name).as_posix(), json.dumps(list(own), ensure_ascii=False)])
    return folder, text.getvalue()


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found


def _text(value: Any) -> str:
    """A value of a setting as on the command line."""
    return os.fspath(value) if isinstance(value, str | os.PathLike) else json.dumps(value, default=_plain)


def _plain(value: Any) -> Any:
    """What JSON does not know: paths, and numbers and arrays of numpy and torch."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if not hasattr(value, "tolist"):
        raise UsageError(f"the value of a setting should be a number, a text, a list or a mapping, received {value!r}")
    return value.tolist()
