"""`export` of masks and `import`: to other people's tools and back."""

from collections.abc import Iterator, Set
from pathlib import Path

from tag2mask.cli.console import errors, output
from tag2mask.cli.request import Request
from tag2mask.cli.words import last_value
from tag2mask.errors import UsageError
from tag2mask.pipeline.progress import StageResult, progress_bar

_READ_BY = {
    "voc": {"images"},
    "coco": {"images", "pieces", "polygons", "least_pixels"},
    "yolo": {"images", "least_pixels"},
    "cvat": {"ignored", "images"},
    "labelstudio": {"ignored", "url"},
    "fiftyone": {"images"},
    "shards": {"images", "per_shard", "store"},
}
"""The options that a format of masks reads, besides those of all."""

_ALL = {"masks", "again"}


def export(request: Request) -> Iterator[StageResult]:
    """Write masks for another tool.

    Raises:
        UsageError: no such format, an option that it does not read, no masks, or something in the place of `out`.
    """
    from tag2mask.formats.export import FORMATS, export_masks
    from tag2mask.formats.target import refuse_target
    from tag2mask.formats.writer import ExportSettings
    from tag2mask.pipeline.exchange import mask_source, refuse_inside

    options, name, out = request.options, request.options["format"], request.config.out
    if name not in FORMATS:
        raise UsageError(f"export knows the formats onnx, {', '.join(FORMATS)}, received '{name}'")
    refuse_options(request, name, _READ_BY[name] | _ALL)
    if options["masks"] is None or out is None:
        raise UsageError(f"export {name} needs --masks PATH, a run or a folder of masks, and --out FOLDER")
    refuse_target(out, again=options["again"])
    masks = Path(options["masks"])
    config = _with_run(request, masks).config
    source, split = mask_source(config, masks)
    refuse_inside(out, masks, config.data.root, config.data.tags)
    settings = ExportSettings.of(options, split)
    result = StageResult(f"export {name}")
    if options["dry_run"]:
        said = f"would write up to {len(source)} masks of {source.folder} as {name} to {out}"
        output().print(said, highlight=False, markup=False, soft_wrap=True)
        return
    with progress_bar(errors(), result.stage, len(source)) as advance:
        made = export_masks(name, source, out, settings, again=options["again"], on_photo=advance)
    result.done, result.failed = made.done, made.failed
    result.notes += [*made.notes, f"written to {out}"]
    yield result


def corrections(request: Request) -> Iterator[StageResult]:
    """Write what another tool exported as a folder of masks.

    Raises:
        UsageError: no such format, nothing says the classes, or something lies in the place of `out`.
    """
    from tag2mask.formats.corrections import READERS, import_masks, read_folder
    from tag2mask.formats.target import refuse_target
    from tag2mask.pipeline.exchange import known_classes, known_photos, refuse_inside
    from tag2mask.pipeline.run_folder import RunFolder
    from tag2mask.pipeline.stages import require_classes

    options, name, out = request.options, request.options["format"], request.config.out
    if name not in READERS:
        raise UsageError(f"import knows the formats {', '.join(READERS)}, received '{name}'")
    if out is None or out.suffix == ".zip":
        raise UsageError(f"import {name} needs --out FOLDER, where the masks go")
    refuse_target(out, again=options["again"])
    if options["run"] is not None:
        run = Path(options["run"])
        if not (run / "config.yaml").is_file():
            raise UsageError(f"--run {run} is no run folder: it has no config.yaml")
        request = _with_run(request, run)
    photos = known_photos(request.config)
    if options["run"] is not None and photos is not None:
        require_classes(RunFolder(Path(options["run"])), photos.classes)
    classes = known_classes(request.config, photos)
    refuse_inside(out, Path(options["file"]), request.config.data.root, request.config.data.tags)
    if options["dry_run"]:
        said = f"would write the masks in {options['file']} to {out}"
        output().print(said, highlight=False, markup=False, soft_wrap=True)
        return
    limit, ignored = request.config.data.pixel_limit, options["ignored"] or "ignored"
    if name == "masks":
        # The run's own mapping is that of its ground truth; the masks of an import follow one that the command gives.
        mapped = photos if last_value(request.words, "--data.mask_values") else None
        masks = read_folder(Path(options["file"]), classes, pixel_limit=limit, photos=mapped)
    else:
        masks = READERS[name](Path(options["file"]), classes, ignored=ignored, pixel_limit=limit)
    made = import_masks(masks, out, classes, photos, again=options["again"], pixel_limit=limit)
    result = StageResult(f"import {name}", done=made.done, failed=made.failed)
    result.notes += [*made.notes, f"written to {out}"]
    yield result


def refuse_options(request: Request, name: str, read: Set[str]) -> None:
    """Refuse options of `export` that a format does not read.

    Raises:
        UsageError: naming them.
    """
    known = {"masks", "again", "model", *(option for options in _READ_BY.values() for option in options)}
    unread = sorted(option for option in known - read if request.options.get(option))
    if unread:
        named = ", ".join(f"--{option.replace('_', '-')}" for option in unread)
        raise UsageError(f"export {name} does not read {named}; leave it out")


def _with_run(request: Request, path: Path) -> Request:
    """The same command on top of the settings of the run that a path is of, if it is of one."""
    from tag2mask.pipeline.run_folder import run_of

    run = run_of(path)
    if run is None:
        return request
    return request.again(["--config", str(run / "config.yaml")]) or request
