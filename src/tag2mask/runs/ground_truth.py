"""The ground truth of images: masks that are there, and masks that are painted when they are first needed."""

from collections.abc import Sequence

from tag2mask.core.distributed import is_main, wait
from tag2mask.core.errors import UsageError, first_five
from tag2mask.data.dataset import ImageSet
from tag2mask.data.ground_truth import count_truth, truth_problems
from tag2mask.data.manifest import ImageItem
from tag2mask.data.problems import Problem
from tag2mask.data.readers.rasterise import Rasterisation, rasterise_masks
from tag2mask.data.validation.image_check import turned_images
from tag2mask.runs.config import Config
from tag2mask.runs.dataset import reading_workers, run_images
from tag2mask.runs.progress import Console, progress_bar
from tag2mask.runs.run_folder import RunFolder


def with_truth(config: Config, images: ImageSet, console: Console) -> ImageSet:
    """The images that have a ground-truth mask, which is painted first where it can be.

    Of several processes, which must all call this, the main one paints and the others wait for it.

    Raises:
        UsageError: masks cannot be painted.
    """
    # Not by what is lacking: masks come while some processes still look for them and others have done so.
    if images.rasterisation is not None:
        if is_main():
            _paint(config, images.rasterisation, images.items, images.classes, console)
        wait()
        images = images.of(images.items.with_truth(images.rasterisation.folder))
    return images.of(images.items.filter(lambda item: item.truth is not None))


def with_painted_truth(config: Config, images: ImageSet, console: Console) -> ImageSet:
    """All the images, with masks painted where they can be and are missing.

    This process alone does so, whatever others do.

    Raises:
        UsageError: masks cannot be painted.
    """
    if images.rasterisation is None:
        return images
    _paint(config, images.rasterisation, images.items, images.classes, console)
    return images.of(images.items.with_truth(images.rasterisation.folder))


def truth_against_tags(images: ImageSet, config: Config) -> list[Problem]:
    """What is wrong between the tags of images and their ground truth; see `tag2mask.data.ground_truth`.

    An error means that no figure of this truth, and no network that is trained on it, can be believed.
    """
    counts = count_truth(images)
    masks = config.data.masks or images.root
    return list(truth_problems(counts, str(masks), painted=images.rasterisation is not None))


def with_believable_truth(images: ImageSet, config: Config) -> tuple[ImageSet, list[str]]:
    """The images, without their ground truth if it does not fit the tags, and what to say about that."""
    errors = [each.message for each in truth_against_tags(images, config) if each.level == "error"]
    return (images.of(images.items.without_truth()) if errors else images), errors


def _paint(
    config: Config, rasterisation: Rasterisation, items: Sequence[ImageItem], classes: tuple[str, ...], console: Console
) -> None:
    """Paint the masks that images lack."""
    there = rasterisation.folder
    lacking = {item.id for item in items if item.truth is None and not (there / f"{item.id}.png").is_file()}
    if not lacking:
        return
    if turned := turned_images((item for item in items if item.id in lacking), rasterisation.sizes):
        sentence = (
            f"EXIF turns {len(turned)} of the {len(lacking)} images whose masks are painted from annotations: "
            f"{first_five(turned)}; masks of those that were annotated as they are stored, not upright, will not fit: "
            "remove the EXIF orientation from those files first"
        )
        console.print(f"warning: {sentence}", style="yellow", highlight=False, markup=False, soft_wrap=True)
    with progress_bar(console, f"paint ground truth into {rasterisation.folder}", len(lacking)) as advance:
        rasterise_masks(
            rasterisation,
            lacking,
            classes,
            workers=reading_workers(config),
            pixel_limit=config.data.pixel_limit,
            on_mask=advance,
        )


def truth_plan(images: ImageSet) -> str:
    """How many images have a mask, and how many would get one; nothing is painted."""
    there = sum(item.truth is not None for item in images.items)
    lacking = len(images.items) - there
    return f"{there} with truth" + (f", {lacking} to paint" if images.rasterisation is not None and lacking else "")


def check_splits(config: Config, run: RunFolder, images: ImageSet) -> None:
    """See that the classes and splits that are measured exist.

    Raises:
        UsageError: one does not.
    """
    class_ids(config.evaluate.class_names(), images.classes)
    for split in config.evaluate.split_names(config.data.split):
        if split != config.data.split:
            run_images(config, run, split)


def class_ids(names: Sequence[str] | None, classes: Sequence[str]) -> list[int] | None:
    """Class ids of names, `background` included; None for None.

    Raises:
        UsageError: a name is no class.
    """
    if names is None:
        return None
    known = ["background", *classes]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UsageError(f"evaluate.classes: {', '.join(unknown)} is not among the classes {', '.join(known)}")
    return [known.index(name) for name in names]
