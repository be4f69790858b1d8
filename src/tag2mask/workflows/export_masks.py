"""The masks to export: those of a run, of its predictions, or of any folder."""

from collections.abc import Sequence
from pathlib import Path

from tag2mask.core.errors import Tag2maskError, UsageError
from tag2mask.core.files import read_json
from tag2mask.data.classes import require_classes_in
from tag2mask.data.dataset import find_images, open_images
from tag2mask.export.formats.registry import MaskSource
from tag2mask.runs.config import Config
from tag2mask.runs.corrections import CORRECTIONS, final_masks, run_corrections
from tag2mask.runs.run_folder import WHOLE, RunFolder, run_of
from tag2mask.stages.registry import require_classes


def mask_source(config: Config, path: Path, *, classes: Sequence[str] | None = None) -> tuple[MaskSource, str | None]:
    """The masks in a run or folder, and the name of their split; None for images without splits.

    Args:
        config: `data` and `limit` are read; where the path is in a run, the settings are those of the run.
        path: a run, a folder of it, or a folder of masks. Without `data.root` and `data.tags` all masks of such a
            folder are meant, and `data.classes` names their classes.
        classes: those of such a folder, in place of `data.classes`.

    Raises:
        UsageError: there is no such folder, or nothing says what the classes are.
    """
    if not path.is_dir():
        raise UsageError(f"{path} is not a folder; give a run, its predictions/SPLIT, or a folder of ID.png")
    owner = run_of(path)
    if owner is not None:
        return _of_run(config, path, RunFolder(owner))
    limits, split = (config.data.pixel_limit, config.limit), config.data.split
    predicted = _predicted_classes(path)
    if predicted is not None:
        found = None if config.data.root is None else find_images(config.data.root).items
        return MaskSource(path, predicted, found, *limits), split
    if config.data.root is None and config.data.tags is None:
        return MaskSource(path, tuple(classes or _classes(config)), None, *limits), split
    images = open_images(config.data)
    return MaskSource(path, images.classes, images.items, *limits), split


def _of_run(config: Config, path: Path, run: RunFolder) -> tuple[MaskSource, str | None]:
    """The masks in a folder of a run: the final masks, without those that were rejected, or others as they are."""
    kind, _, name = path.absolute().relative_to(run.path.absolute()).as_posix().partition("/")
    is_final = (kind, name) in ((".", ""), ("masks", ""))
    folder, split = run / "masks" if is_final else path, config.data.split
    if kind == "predictions" and name:
        split = None if name == WHOLE else name
    if is_final and not folder.is_dir() and not (run / CORRECTIONS).exists():
        raise UsageError(f"{folder} does not exist; `tag2mask refine {run.path}` makes the masks of a run")
    images = open_images(config.data, split=split)
    require_classes(run, images.classes)
    limits = config.data.pixel_limit, config.limit
    if not is_final or not (run / CORRECTIONS).exists():
        return MaskSource(folder, images.classes, images.items, *limits), split
    images = images.corrected(run_corrections(run, images.classes))
    chosen = images.items[: config.limit]
    kept = chosen.filter(lambda item: not images.corrections.is_rejected(item.id))
    rejected = tuple(item.id for item in chosen if images.corrections.is_rejected(item.id))
    masks = final_masks(run, images)
    return MaskSource(masks, images.classes, kept, config.data.pixel_limit, rejected=rejected), split


def refuse_inside(out: Path, *places: Path | None) -> None:
    """Refuse to write into folders that are read, or over them: --overwrite would delete them.

    Raises:
        UsageError: ``out`` is one of the folders, lies in one, or holds one.
    """
    target = out.resolve()
    for place in places:
        own = None if place is None else place.resolve()
        if own is not None and (own == target or own in target.parents or target in own.parents):
            raise UsageError(f"--out {out} is, holds or lies inside {place}, which is read here; choose another one")


def _predicted_classes(path: Path) -> tuple[str, ...] | None:
    """The classes of a folder that `predict` wrote; None for any other.

    Raises:
        UsageError: its record is damaged.
    """
    record = path / "predictions.json"
    if not record.is_file():
        return None
    try:
        return tuple(str(name) for name in read_json(record)["classes"][1:])
    except (Tag2maskError, KeyError, TypeError) as error:
        message = f"{record} is damaged, or was not written by predict; `tag2mask predict --overwrite` writes it again"
        raise UsageError(message) from error


def _classes(config: Config) -> tuple[str, ...]:
    """The class list of the settings."""
    if config.data.classes is None:
        raise UsageError(
            "nothing says what the classes are; name them with --data.classes, or the data with --data.root"
        )
    return require_classes_in(config.data.classes)
