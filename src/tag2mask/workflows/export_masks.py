"""Which masks an export is of: those of a run, of its predictions, or of any folder."""

from dataclasses import replace
from pathlib import Path

from tag2mask.core.errors import Tag2maskError, UsageError, first_five
from tag2mask.core.files import read_json
from tag2mask.data.classes import class_problems, read_classes
from tag2mask.data.corrections import FinalMasks
from tag2mask.data.dataset import ImageSet, find_images, open_images
from tag2mask.export.formats.registry import MaskSource
from tag2mask.runs.config import Config
from tag2mask.runs.corrections import data_of
from tag2mask.runs.run_folder import WHOLE, RunFolder, run_of
from tag2mask.stages.registry import require_classes

_MASKS, _PREDICTIONS = "masks", "predictions"


def mask_source(config: Config, path: Path) -> tuple[MaskSource, str]:
    """The masks that a path means, and the name of their split.

    Args:
        config: `data`, `limit` and `outputs` are read; where the path is of a run, the settings are that run's.
        path: a run, a folder of it, or a folder of masks. Without `data.root` and `data.tags` all masks of such a
            folder are meant, and `data.classes` names their classes.

    Raises:
        UsageError: there is no such folder, or nothing says what the classes are.
    """
    if not path.is_dir():
        raise UsageError(f"{path} is no folder; give a run, its predictions/SPLIT, or a folder of ID.png")
    run, split, corrected = run_of(path), config.data.split, False
    data = data_of(config, run)
    if run is None:
        folder: Path = path
    else:
        name = path.absolute().relative_to(run.absolute()).as_posix()
        name = _MASKS if name == "." else name
        folder = run / name
        if name.startswith(f"{_PREDICTIONS}/"):
            given = name.removeprefix(f"{_PREDICTIONS}/")
            split = None if given == WHOLE else given
        corrected = name == _MASKS and data.corrections is not None
        if not folder.is_dir() and not corrected:
            raise UsageError(f"{folder} does not exist; `tag2mask refine {run}` makes the masks of a run")
    limits, split_name = (config.data.pixel_limit, config.limit), split or "default"
    predicted = _predicted_classes(path) if run is None else None
    named = config.data.root is not None or config.data.tags is not None
    if predicted is not None:
        found = None if config.data.root is None else find_images(config.data.root).items
        return MaskSource(folder, predicted, found, *limits), split_name
    if not named:
        return MaskSource(folder, _classes(config), None, *limits), split_name
    images = open_images(data, split=split)
    if run is not None:
        require_classes(RunFolder(run), images.classes)
    if corrected:
        return _corrected_source(config, folder, images), split_name
    return MaskSource(folder, images.classes, images.items, *limits), split_name


def _corrected_source(config: Config, folder: Path, images: ImageSet) -> MaskSource:
    """The masks of a run, people's in the place of its own, without those that somebody rejected."""
    decided, chosen = images.decided, images.items[: config.limit]
    kept = chosen.filter(lambda item: not decided.is_rejected(item.id))
    masks, rejected = FinalMasks(folder, decided), len(chosen) - len(kept)
    return MaskSource(masks, images.classes, kept, config.data.pixel_limit, rejected=rejected)


def known_images(config: Config) -> ImageSet | None:
    """The images that corrections may be of, in all splits; None where the settings name none."""
    if config.data.root is None and config.data.tags is None:
        return None
    return open_images(replace(config.data, split=None, corrections=None))


def known_classes(config: Config, images: ImageSet | None) -> tuple[str, ...]:
    """The classes that corrected masks are of, in the order of their ids.

    Raises:
        UsageError: nothing says them.
    """
    return _classes(config) if images is None else images.classes


def refuse_inside(out: Path, *places: Path | None) -> None:
    """Refuse to write among masks or images, or over them: --overwrite would delete them.

    Raises:
        UsageError: ``out`` is one of the folders, lies in one, or holds one.
    """
    target = out.resolve()
    for place in places:
        own = None if place is None else place.resolve()
        if own is not None and (own == target or own in target.parents or target in own.parents):
            raise UsageError(f"--out {out} is, holds or lies inside {place}, which is read here; choose another one")


def _predicted_classes(path: Path) -> tuple[str, ...] | None:
    """The classes of a folder that `predict` wrote; None of any other.

    Raises:
        UsageError: its record is damaged.
    """
    record = path / "predictions.json"
    if not record.is_file():
        return None
    try:
        return tuple(str(name) for name in read_json(record)["classes"][1:])
    except (Tag2maskError, KeyError, TypeError) as error:
        message = f"{record} is no record of predict, or damaged; `tag2mask predict` with --overwrite writes it again"
        raise UsageError(message) from error


def _classes(config: Config) -> tuple[str, ...]:
    """The class list of the settings."""
    if config.data.classes is None:
        raise UsageError(
            "nothing says what the classes are; name them with --data.classes, or the data with --data.root"
        )
    classes, problems = read_classes(config.data.classes)
    problems = [*problems, *class_problems(classes or (), "data.classes")]
    if classes is None or problems:
        raise UsageError(first_five(problem.message for problem in problems))
    return classes
