"""The ground truth of images: existing masks, and masks that are rasterised from annotations when they are needed."""

from collections.abc import Sequence

from tag2mask.cams.kinds import WORDS
from tag2mask.core.distributed import is_main, wait
from tag2mask.core.errors import UsageError, first_five
from tag2mask.data.dataset import ImageSet
from tag2mask.data.ground_truth import count_truth, truth_problems
from tag2mask.data.problems import Problem
from tag2mask.data.readers.rasterise import Rasterisation, rasterise_masks
from tag2mask.data.validation.image_check import turned_images
from tag2mask.runs.config import Config
from tag2mask.runs.dataset import reading_workers, run_images
from tag2mask.runs.progress import Console, progress_bar
from tag2mask.runs.run_folder import RunFolder


def with_ground_truth(config: Config, images: ImageSet, console: Console) -> ImageSet:
    """The images with ground truth, which is rasterised first where possible.

    All processes call this together; the main one rasterises.

    Raises:
        UsageError: masks cannot be rasterised.
    """
    # Not by what is missing: masks appear while some processes still look for them.
    if images.rasterisation is not None:
        if is_main():
            _rasterise(config, images, images.rasterisation, console)
        wait()
        images = images.of(images.items.with_truth(images.rasterisation.folder))
    return images.of(images.items.filter(lambda item: item.truth is not None))


def rasterise_missing_truth(config: Config, images: ImageSet, console: Console) -> ImageSet:
    """All images, with ground truth that is rasterised first where possible, by this process alone.

    Raises:
        UsageError: masks cannot be rasterised.
    """
    if images.rasterisation is None:
        return images
    _rasterise(config, images, images.rasterisation, console)
    return images.of(images.items.with_truth(images.rasterisation.folder))


def compare_truth_with_tags(images: ImageSet, config: Config) -> list[Problem]:
    """Differences between ground truth and tags; an error among them means that this ground truth cannot be used.

    There are none in a run whose tags a model found: they say nothing about the ground truth.
    """
    if WORDS in config.cams.kinds:
        return []
    subject = str(config.data.masks or images.root)
    return list(truth_problems(count_truth(images), subject, rasterised=images.rasterisation is not None))


def without_mismatched_truth(images: ImageSet, config: Config) -> tuple[ImageSet, list[str]]:
    """The images, without their ground truth if it does not fit the tags, and the messages about that."""
    errors = [each.message for each in compare_truth_with_tags(images, config) if each.level == "error"]
    return (images.of(images.items.without_truth()) if errors else images), errors


def _rasterise(config: Config, images: ImageSet, rasterisation: Rasterisation, console: Console) -> None:
    """Rasterise the masks that are missing."""
    folder = rasterisation.folder
    missing = {item.id for item in images.items if item.truth is None and not (folder / f"{item.id}.png").is_file()}
    if not missing:
        return
    if turned := turned_images((item for item in images.items if item.id in missing), rasterisation.sizes):
        sentence = (
            f"EXIF turns {len(turned)} of the {len(missing)} images whose masks are rasterised from annotations: "
            f"{first_five(turned)}; masks of those that were annotated as they are stored, not upright, will not fit: "
            "remove the EXIF orientation from those files first"
        )
        console.print(f"warning: {sentence}", style="yellow", highlight=False, markup=False, soft_wrap=True)
    with progress_bar(console, f"rasterise ground truth into {folder}", len(missing)) as advance:
        workers, limit = reading_workers(config), config.data.pixel_limit
        rasterise_masks(rasterisation, missing, images.classes, workers=workers, pixel_limit=limit, on_mask=advance)


def truth_plan(images: ImageSet) -> str:
    """The number of images with a mask, and of masks to rasterise, in words."""
    existing = sum(item.truth is not None for item in images.items)
    missing = len(images.items) - existing
    return f"{existing} with truth" + (
        f", {missing} to rasterise" if images.rasterisation is not None and missing else ""
    )


def check_splits(config: Config, run: RunFolder, images: ImageSet) -> None:
    """Raise `UsageError` if a class or split that is evaluated does not exist."""
    class_ids(config.evaluate.class_names(), images.classes)
    for split in config.evaluate.split_names(config.data.split):
        if split != config.data.split:
            run_images(config, run, split)


def class_ids(names: Sequence[str] | None, classes: Sequence[str]) -> list[int] | None:
    """Class ids of names, `background` included; None for None.

    Raises:
        UsageError: a name is not a class.
    """
    if names is None:
        return None
    known = ["background", *classes]
    if unknown := [name for name in names if name not in known]:
        raise UsageError(f"evaluate.classes: {', '.join(unknown)} is not among the classes {', '.join(known)}")
    return [known.index(name) for name in names]
