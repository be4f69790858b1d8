"""`masks`: a text-image model finds the classes of untagged images by their names, and where they are."""

import csv
import io
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import torch

from tag2mask.cams.clip.prompts import read_prompts
from tag2mask.cams.kinds import WORDS
from tag2mask.cams.seed_models import MapMaker, TextImageModel, load_seed_model
from tag2mask.core.device import resolve_device
from tag2mask.core.errors import Tag2maskError, UsageError, first_five
from tag2mask.core.files import write_bytes
from tag2mask.core.provenance import is_of_image
from tag2mask.data.cam_files import CamFile, CamFileError, read_cam, read_record, write_cam
from tag2mask.data.classes import require_classes_in
from tag2mask.data.dataset import ImageSet, detect_layout, find_images, survey
from tag2mask.data.manifest import ImageItem
from tag2mask.data.problems import refuse_errors
from tag2mask.data.readers.rasterise import has_external_masks
from tag2mask.data.settings import DataSettings, Kind
from tag2mask.runs.config import Config
from tag2mask.runs.corrections import run_corrections
from tag2mask.runs.dataset import refuse_run_inside
from tag2mask.runs.progress import Console, StageResult, progress_bar
from tag2mask.runs.run_folder import RunFolder, read_settings
from tag2mask.stages.base import Schedule, Settings
from tag2mask.stages.cams import Cams
from tag2mask.stages.registry import STAGES, require_classes
from tag2mask.stages.seeds import batches_by_patches, prepared_batches


class Words(Cams):
    """The stage `cams` with a text-image model in place of a network."""

    reads = ()

    def settings(self, config: Config, images: ImageSet) -> Settings:
        """The settings of the model, and the probability from which it finds a class."""
        level = {"background_threshold": config.refine.background_threshold}
        return {"cams": {"kinds": [WORDS]}, **STAGES["seeds"].settings(config, images), "refine": level}


_OF_TAGS = {"missing-tags", "bad-annotation", "unknown-tag", "no-tags"}
"""Kinds of problems that do not matter: the tags of the data set are not read."""


def require_words(run: RunFolder) -> None:
    """Refuse a run folder whose CAMs are those of a network.

    Raises:
        UsageError: its config.yaml names other kinds of CAM.
    """
    path = run / "config.yaml"
    kinds = (read_settings(path).get("cams") or {}).get("kinds") if path.is_file() else [WORDS]
    if kinds != [WORDS]:
        raise UsageError(
            f"{run.path} is a run with tags, not one of `tag2mask masks`: its config.yaml has cams.kinds {kinds}; "
            "choose another --out"
        )


def untagged_images(config: Config, run: RunFolder) -> ImageSet:
    """The images to ask for, with the class list, and with tags only where somebody corrected them.

    A VOC or COCO root, or a folder with a table, has its own list of images; any other folder has all that are below
    it.

    Raises:
        UsageError: there are no images or no classes, or there is a tags table already.
    """
    data = config.data
    if data.tags is not None and data.tags.absolute() != _table(run).absolute():
        raise UsageError(
            f"masks takes a folder with images and finds their tags by itself, and {data.tags} is a table or a file; "
            "leave it out, or use `tag2mask run` with tags"
        )
    if data.root is None or not data.root.is_dir():
        given = "" if data.root is None else f", and {data.root} is not a folder"
        raise UsageError(f"masks needs IMAGES, the folder with the images{given}")
    if "tag" in (pair.partition("=")[2].strip() for pair in (data.mask_values or "").split(",")):
        raise UsageError("data.mask_values: `tag` is the given tag of an image, and masks has none; name the class")
    own = replace(data, tags=None)
    layout = detect_layout(own)
    if data.classes is None and layout not in ("voc", "coco"):
        raise UsageError("masks needs --classes, names with commas or a file, of what the images may show")
    images = _images_below(own, data.root, run) if layout == "folders" else _listed_images(own, data.root)
    refuse_run_inside(images, run.path)
    corrections = run_corrections(run, images.classes)
    return images.of(images.items.with_tags({item.id: () for item in images.items})).corrected(corrections)


def _images_below(data: DataSettings, root: Path, run: RunFolder) -> ImageSet:
    """All images below a folder without its masks, with the given classes."""
    images = replace(find_images(root, skip=run.path), classes=require_classes_in(data.classes or ""))
    truth = None if data.masks is None else data.masks.absolute()
    if truth is None or root.absolute() not in truth.parents:
        return images
    return images.of(images.items.filter(lambda item: truth not in item.path.absolute().parents))


def _listed_images(data: DataSettings, root: Path) -> ImageSet:
    """The images of a layout that lists them, whose own ground truth has the ids of its own classes."""
    found = survey(data)
    refuse_errors((each for each in found.problems if each.kind not in _OF_TAGS), root)
    own, names, made = found.listing.names, found.images.classes, found.images.rasterisation
    by_ids = found.listing.official and (made is None or has_external_masks(made.folder))
    if by_ids and names != own and data.masks is None and data.mask_values is None:
        raise UsageError(
            f"{root} has ground truth with the ids of its own {len(own)} classes, {first_five(own)}, and --classes "
            f"{first_five(names)} numbers them anew: leave --classes out, give masks with the new ids as --data.masks, "
            "say what the values mean by --data.mask_values, or give the folder of the images alone as IMAGES"
        )
    return found.images


def check_words(config: Config, run: RunFolder, images: ImageSet, names: Sequence[str], again: Collection[str]) -> None:
    """Find what would stop this command, or the stages ``names`` after it, before a model is asked.

    A table with all images and classes is read as later commands read `tags.csv`.

    Args:
        config: every setting.
        run: the run folder.
        images: of `untagged_images`.
        names: of the stages to do with the masks.
        again: of the stages whose outputs are about to be deleted.

    Raises:
        UsageError: settings or data are wrong, the folder has files of other settings, or a name does not fit a table.
    """
    if config.shard is not None:
        raise UsageError("masks writes one table of tags, so --shard does not apply; leave it out")
    require_classes(run, images.classes, again)
    for stage in (Words(), *(STAGES[name] for name in names)):
        run.check(stage, stage.fingerprint(config, images), restart=stage.name in again)
    chosen = images.of(images.items[: config.limit])
    with TemporaryDirectory() as folder:
        table = Path(folder) / "tags.csv"
        listed = _of_all_splits(config, run, images) if _needs_all(config) else chosen
        _write_table(table, listed, {item.id: images.classes for item in chosen.items[:1]})
        later = replace(config, data=replace(config.data, tags=table))
        found = survey(later.data)
        if lost := {item.id for item in chosen.items} - {item.id for item in found.images.items}:
            raise UsageError(
                f"{len(lost)} images have names that a table of tags cannot hold: {first_five(sorted(lost))}; rename "
                "them, in UTF-8, without backslashes, and without blanks at the ends"
            )
        schedule = Schedule([Words.name, *names], again)
        try:
            found.require_usable()
            for name in names:
                STAGES[name].check(later, run, found.images, schedule)
        except UsageError as error:
            raise UsageError(str(error).replace(str(table), str(_table(run)))) from error


def _layout(config: Config) -> Kind:
    return detect_layout(replace(config.data, tags=None))


def _needs_all(config: Config) -> bool:
    """Whether the table needs a line per image, also of those that the model is not asked for."""
    return _layout(config) in ("voc", "coco")


def _of_all_splits(config: Config, run: RunFolder, images: ImageSet) -> ImageSet:
    """The images of all splits, which the table of tags lists."""
    if config.data.split is None:
        return images
    return untagged_images(replace(config, data=replace(config.data, split=None)), run)


def is_unasked(run: RunFolder, item: ImageItem) -> bool:
    """Whether the file of an image is missing, of another image, or lacks a corrected tag."""
    path = _maps(run, item)
    found = read_record(path)
    return found is None or not {*item.tags} <= {*found.ids} or not is_of_image(found.image, item.path, path)


def ask_by_words(
    config: Config, run: RunFolder, images: ImageSet, console: Console, again: Sequence[str]
) -> tuple[Config, StageResult]:
    """Ask a model for every class in every image, and write the maps of those that it finds, and a table of tags.

    A class is in an image if its probability is above `refine.background_threshold` somewhere. The maps are
    probabilities, not divided by their maximum.

    Args:
        config: every setting, after `check_words`.
        run: the run folder.
        images: of `untagged_images`.
        console: for progress.
        again: the stages whose outputs are deleted first; none to keep the maps.

    Returns:
        the settings of a run over these images with the tags that were found, and the result.

    Raises:
        UsageError: the model has no probabilities.
        Tag2maskError: no image shows any of the classes, or the model could not be loaded.
    """
    stage, settings, result = Words(), config.seeds, StageResult("words")
    chosen = images.items[: config.limit]
    if again or any(is_unasked(run, item) for item in chosen):
        prompts = read_prompts(settings.prompts, images.classes)
        device = resolve_device(config.device)
        model = load_seed_model(settings, prompts, device, notify=lambda text: console.print(text, highlight=False))
        if model.probabilities is None:
            raise UsageError(
                f"{settings.model} is a CLIP, which makes no masks by itself: use a CLIPSeg, a SAM 3 or a TIPSv2, or "
                "`tag2mask run` with tags"
            )
        result.notes += prompts.notices if model.reads_background else []
        if again:
            run.delete(STAGES[name] for name in again)
            console.print(f"restart: deleted the outputs of {', '.join(again)}", highlight=False)
            run.record_config(replace(config, data=replace(config.data, tags=None)))  # the table is of deleted maps
        run.record_fingerprint(stage, stage.fingerprint(config, images))  # with the files that were downloaded
        run.write_classes(images.classes)
        _ask(config, run, images.of(chosen), model.model, model.probabilities, result, console)
    result.skipped = len(chosen) - result.done - len(result.failed)
    listed = _of_all_splits(config, run, images)
    tags = _found_tags(config, run, listed)
    if not any(tags.values()):
        raise Tag2maskError(
            f"{settings.model} finds none of {first_five(images.classes)} in {len(chosen)} images; use other words "
            "(seeds.prompts), or a lower --refine.background_threshold with --restart cams"
        )
    result.notes += _write_found(config, run, listed, tags)
    counts = Counter(name for item in chosen for name in tags.get(item.id, ()))
    named = ", ".join(f"{name} in {counts[name]}" for name in images.classes if counts[name])
    none = sum(tags.get(item.id) == [] for item in chosen)
    result.notes.append(f"{named} images; none of the classes in {none}; the tags are in {_table(run)}")
    config = replace(config, data=replace(config.data, tags=_table(run)))
    run.record_config(config)
    return config, result


def _write_found(config: Config, run: RunFolder, listed: ImageSet, tags: Mapping[str, Sequence[str]]) -> list[str]:
    """Write the table of tags, and return notes about images that were not asked for, and about unused ground truth."""
    asked = listed.of(listed.items.filter(lambda item: item.id in tags))
    _write_table(_table(run), listed if _needs_all(config) else asked, tags)
    notes, left = [], len(listed) - len(asked)
    if _needs_all(config) and left:
        notes.append(f"{left:,} images that the model was not asked for have no tags in {_table(run)}")
    if _layout(config) == "mvtec":
        notes.append("the ground truth of the inspection set is not used: its masks do not name their class")
    return notes


def _ask(
    config: Config,
    run: RunFolder,
    images: ImageSet,
    model: TextImageModel,
    probabilities: MapMaker,
    result: StageResult,
    console: Console,
) -> None:
    """Write the maps of the images that were not asked for yet."""
    batches = batches_by_patches(model, images.items, config, result)
    todo, unasked = batches.unfinished(lambda item: is_unasked(run, item))
    with progress_bar(console, "words", unasked) as advance:
        for batch in prepared_batches(model, todo, config, result):
            asked = torch.ones(len(batch), len(images.classes), dtype=torch.bool)
            made = probabilities([each.image for each in batch], asked)
            for each, (labels, maps) in zip(batch, made, strict=True):
                if is_unasked(run, each.item):
                    ids, cams = np.array(labels, dtype=np.int32) + 1, maps.half().numpy()
                    kept = _found(cams, config) | np.isin(ids, each.item.tags)
                    cam = CamFile(ids[kept], cams[kept], each.size, image=each.origin)
                    write_cam(_maps(run, each.item), cam)
                    result.done += 1
            advance(result.done)


def _found(cams: npt.NDArray[np.float16], config: Config) -> npt.NDArray[np.bool_]:
    """Whether each class, of maps (K, h, w), is in the image, or its map is NaN, which `write_cam` refuses: (K,)."""
    return np.asarray(~(cams.max((1, 2), initial=0) <= config.refine.background_threshold))


def _found_tags(config: Config, run: RunFolder, images: ImageSet) -> dict[str, list[str]]:
    """The classes that the model found in each image that it was asked for."""
    tags = {}
    for item in images.items:
        with suppress(CamFileError):
            cam = read_cam(path := _maps(run, item))
            if is_of_image(cam.image, item.path, path):
                tags[item.id] = [images.classes[number - 1] for number in cam.ids[_found(cam.cams, config)]]
    return tags


def _write_table(path: Path, images: ImageSet, tags: Mapping[str, Sequence[str]]) -> None:
    """Write the known tags of all images, with their splits if they have any."""
    text, has_splits = io.StringIO(), any(item.splits for item in images.items)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "tags", *(["split"] if has_splits else [])])
    for item in images.items:
        name = item.path.relative_to(images.root).as_posix()
        writer.writerow([name, ";".join(tags.get(item.id, ())), *([item.splits] if has_splits else [])])
    write_bytes(path, text.getvalue().encode("utf-8", "surrogateescape"))


def _maps(run: RunFolder, item: ImageItem) -> Path:
    return run / f"cams/{WORDS}/{item.id}.npz"


def _table(run: RunFolder) -> Path:
    return run / "tags.csv"
