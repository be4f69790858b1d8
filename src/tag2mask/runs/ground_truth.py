"""The ground truth of photographs: masks that are there, and masks that are painted when they are first needed."""

from collections.abc import Sequence

from tag2mask.core.distributed import is_main, wait
from tag2mask.core.errors import UsageError, first_five
from tag2mask.data.dataset import PhotoSet
from tag2mask.data.ground_truth import count_truth, truth_problems
from tag2mask.data.manifest import Photo
from tag2mask.data.problems import Problem
from tag2mask.data.readers.rasterise import Painting, paint_masks
from tag2mask.data.validation.image_check import turned_photographs
from tag2mask.runs.config import Config
from tag2mask.runs.dataset import photographs, reading_workers
from tag2mask.runs.progress import Console, progress_bar
from tag2mask.runs.run_folder import RunFolder


def with_truth(config: Config, photos: PhotoSet, console: Console) -> PhotoSet:
    """The photographs that have a ground-truth mask, which is painted first where it can be.

    Of several processes, which must all call this, the main one paints and the others wait for it.

    Raises:
        UsageError: masks cannot be painted.
    """
    # Not by what is lacking: masks come while some processes still look for them and others have done so.
    if photos.painting is not None:
        if is_main():
            _paint(config, photos.painting, photos.photos, photos.classes, console)
        wait()
        photos = photos.of(photos.photos.with_masks(photos.painting.folder))
    return photos.of(photos.photos.where(lambda photo: photo.mask is not None))


def with_painted_truth(config: Config, photos: PhotoSet, console: Console) -> PhotoSet:
    """All the images, with masks painted where they can be and are missing.

    This process alone does so, whatever others do.

    Raises:
        UsageError: masks cannot be painted.
    """
    if photos.painting is None:
        return photos
    _paint(config, photos.painting, photos.photos, photos.classes, console)
    return photos.of(photos.photos.with_masks(photos.painting.folder))


def truth_against_tags(photos: PhotoSet, config: Config) -> list[Problem]:
    """What is wrong between the tags of photographs and their ground truth; see `tag2mask.data.ground_truth`.

    An error means that no figure of this truth, and no network that is trained on it, can be believed.
    """
    counts = count_truth(photos)
    masks = config.data.masks or photos.root
    return list(truth_problems(counts, str(masks), painted=photos.painting is not None))


def with_believable_truth(photos: PhotoSet, config: Config) -> tuple[PhotoSet, list[str]]:
    """The photographs, without their ground truth if it does not fit the tags, and what to say about that."""
    errors = [each.message for each in truth_against_tags(photos, config) if each.level == "error"]
    return (photos.of(photos.photos.without_masks()) if errors else photos), errors


def _paint(
    config: Config, painting: Painting, photos: Sequence[Photo], classes: tuple[str, ...], console: Console
) -> None:
    """Paint the masks that photographs lack."""
    there = painting.folder
    lacking = {photo.id for photo in photos if photo.mask is None and not (there / f"{photo.id}.png").is_file()}
    if not lacking:
        return
    if turned := turned_photographs((photo for photo in photos if photo.id in lacking), painting.sizes):
        sentence = (
            f"EXIF turns {len(turned)} of the {len(lacking)} photographs whose masks are painted from annotations: "
            f"{first_five(turned)}; masks of those that were annotated as they are stored, not upright, will not fit: "
            "remove the EXIF orientation from those files first"
        )
        console.print(f"warning: {sentence}", style="yellow", highlight=False, markup=False, soft_wrap=True)
    with progress_bar(console, f"paint ground truth into {painting.folder}", len(lacking)) as advance:
        paint_masks(
            painting,
            lacking,
            classes,
            workers=reading_workers(config),
            pixel_limit=config.data.pixel_limit,
            on_mask=advance,
        )


def truth_plan(photos: PhotoSet) -> str:
    """How many photographs have a mask, and how many would get one; nothing is painted."""
    there = sum(photo.mask is not None for photo in photos.photos)
    lacking = len(photos.photos) - there
    return f"{there} with truth" + (f", {lacking} to paint" if photos.painting is not None and lacking else "")


def check_splits(config: Config, run: RunFolder, photos: PhotoSet) -> None:
    """See that the classes and splits that are measured exist.

    Raises:
        UsageError: one does not.
    """
    class_ids(config.evaluate.class_names(), photos.classes)
    for split in config.evaluate.split_names(config.data.split):
        if split != config.data.split:
            photographs(config, run, split)


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
