"""The commands `export`, `import` and `compare`."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from tag2mask.cli.console import agreement_table, differences_table, errors, output, print_json, say, show_result
from tag2mask.cli.invocation import Invocation
from tag2mask.cli.stages import finish, one_process, require_run
from tag2mask.core.errors import UsageError
from tag2mask.core.files import read_yaml
from tag2mask.data.corrections import CorrectionsFolder
from tag2mask.data.dataset import open_images
from tag2mask.export.formats.base import ExportSettings, Images, Pieces
from tag2mask.export.formats.importers import READERS, import_masks
from tag2mask.export.formats.registry import FORMATS, export_masks
from tag2mask.export.formats.target import check_target
from tag2mask.export.onnx import export_onnx, require_onnx
from tag2mask.networks.checkpoint import load_segmentation_network
from tag2mask.prediction.predictor import find_checkpoint
from tag2mask.runs.config import Config
from tag2mask.runs.corrections import CORRECTIONS
from tag2mask.runs.progress import StageResult, progress_bar
from tag2mask.runs.run_folder import RunFolder
from tag2mask.stages.registry import require_classes
from tag2mask.workflows.compare import compare_masks, pair_masks, record_agreement, write_agreement
from tag2mask.workflows.export_masks import mask_source, refuse_inside
from tag2mask.workflows.repeats import refuse_repeats

NO_SPLIT = "default"
"""The name of the split of images without splits, in exports."""


@one_process
def export(
    call: Invocation,
    format: str,
    run: Path,
    *,
    images: Images | None = None,
    pieces: Pieces | None = None,
    polygons: bool = False,
    min_pixels: int | None = None,
    ignore_label: str | None = None,
    per_shard: int | None = None,
    store: str | None = None,
    url: str | None = None,
    overwrite: bool = False,
) -> int:
    """Write masks, or a trained network, for other tools.

    Args:
        format: voc, coco, yolo, cvat, labelstudio, fiftyone or shards (masks), or onnx (a network)
        run: a run, its predictions/SPLIT, or any folder of ID.png; onnx: a run or a .safetensors file
        images: none, copy, link or symlink; default: symlink for yolo and fiftyone, none for others
        pieces: coco: one annotation per connected component (components, default) or per class (classes)
        polygons: coco: write outlines instead of run lengths; loses holes
        min_pixels: coco, yolo: omit smaller components; default: 16 for yolo, 1 for coco
        ignore_label: cvat, labelstudio: the label for 255, or background; default: ignored
        per_shard: shards: samples per tar; default: 1000
        store: shards: URL for the tars, such as s3://bucket/masks; default: --out
        url: labelstudio: prefix of the image URLs; default: /data/local-files/?d=
        overwrite: replace an earlier export in --out
    """
    options = {
        "images": images,
        "pieces": pieces,
        "polygons": polygons or None,
        "min_pixels": min_pixels,
        "ignore_label": ignore_label,
        "per_shard": per_shard,
        "store": store,
        "url": url,
    }
    given = {name: value for name, value in options.items() if value is not None}
    if format != "onnx" and format not in FORMATS:
        raise UsageError(f"export knows the formats onnx, {', '.join(FORMATS)}, received '{format}'")
    unread = sorted(given.keys() - (FORMATS[format].options if format in FORMATS else set()))
    unread += ["overwrite"] if overwrite and format == "onnx" else []
    if unread:
        named = ", ".join(f"--{name.replace('_', '-')}" for name in unread)
        raise UsageError(f"export {format} does not read {named}; leave it out")
    if call.config.out is None:
        where = "--out FILE.onnx" if format == "onnx" else "--out FOLDER"
        raise UsageError(f"export {format} needs {where}, where the result goes")
    if format == "onnx":
        return _network(call, run, call.config.out)
    return _masks(call, format, run, call.config.out, given, overwrite)


def _network(call: Invocation, run: Path, target: Path) -> int:
    model = find_checkpoint(run)
    if target.suffix != ".onnx" or target.is_dir():
        raise UsageError(f"--out {target} should name a file with the suffix .onnx")
    require_onnx()
    if call.dry_run:
        output().print(f"would write {model} as {target}", highlight=False, markup=False, soft_wrap=True)
        return 0
    result = StageResult("export", done=1)
    result.notes.append(export_onnx(load_segmentation_network(model), target).sentence())
    return finish(call, [result])


def _masks(call: Invocation, name: str, masks: Path, out: Path, given: dict[str, Any], overwrite: bool) -> int:
    check_target(out, overwrite=overwrite)
    source, split = mask_source(call.config, masks)
    refuse_inside(out, masks, call.config.data.root, call.config.data.tags)
    settings = ExportSettings(**{"split": split or NO_SPLIT, **given})
    result = StageResult(f"export {name}")
    if call.dry_run:
        sentence = f"would write up to {len(source)} masks of {source.folder} as {name} to {out}"
        output().print(sentence, highlight=False, markup=False, soft_wrap=True)
        return 0
    with progress_bar(call.console, result.stage, len(source)) as advance:
        made = export_masks(name, source, out, settings, overwrite=overwrite, on_image=advance)
    result.done, result.failed = made.done, made.failed
    result.notes += [*made.notes, f"written to {out}"]
    return finish(call, [result])


@one_process
def import_corrections(
    call: Invocation,
    format: str,
    file: Path,
    run: Path,
    *,
    ignore_label: str = "ignored",
    overwrite: bool = False,
) -> int:
    """Import masks from another tool as corrections of a run.

    Args:
        format: cvat, labelstudio, or masks (a folder of ID.png)
        file: the exported zip, JSON file or folder
        run: the run folder; the masks are written to its folder corrections
        ignore_label: the label that stands for 255
        overwrite: replace existing corrections of these masks
    """
    if format not in READERS:
        raise UsageError(f"import knows the formats {', '.join(READERS)}, received '{format}'")
    require_run(run)
    refuse_repeats(RunFolder(run))
    images = open_images(replace(call.config.data, split=None))
    require_classes(RunFolder(run), images.classes)
    folder = CorrectionsFolder(run / CORRECTIONS, images.classes)
    if call.dry_run:
        sentence = f"would write the masks in {file} to {folder.folder}"
        output().print(sentence, highlight=False, markup=False, soft_wrap=True)
        return 0
    options: dict[str, Any] = {"ignored": ignore_label}
    if format == "masks":
        # The run's own mapping is that of its ground truth; the masks of an import follow one that the command gives.
        options = {"images": images if "data.mask_values" in call.given else None}
    read = partial(READERS[format], file, images.classes, pixel_limit=images.pixel_limit, **options)
    folder.remove_partial()
    made = import_masks(read, folder, images, overwrite=overwrite)
    result = StageResult(f"import {format}", done=made.done, failed=made.failed)
    result.notes += [*made.notes, f"written to {folder.folder}"]
    return finish(call, [result])


@one_process
def compare(call: Invocation, a: Path, b: Path, *, overwrite: bool = False) -> int:
    """Compare two ways of making masks on the same images.

    Args:
        a: a run, its predictions/SPLIT, an output folder of predict, or any folder of ID.png
        b: the masks to compare with, likewise
        overwrite: replace the file that --out names, a table (.csv) of all images
    """
    out = call.config.out
    if out is not None and (out.suffix.lower() != ".csv" or out.is_dir()):
        raise UsageError(f"--out {out} should name a file with the suffix .csv, the table of all images")
    if out is not None and out.exists() and not overwrite:
        raise UsageError(f"--out {out} exists; choose another one, or --overwrite to replace it")
    pairs = pair_masks(partial(_settings_of, call), (a, b))
    if call.dry_run:
        say(output(), f"would compare the masks of {len(pairs.ids)} images in {a} and {b}")
        return 0
    compared = compare_masks(pairs, call.console)
    result = StageResult("compare", done=len(compared.images), failed=compared.failed, notes=compared.notes())
    if out is not None:
        write_agreement(out, compared.images)
        result.notes.append(f"table of all images, least agreement first: {out}")
    if call.config.limit is None:  # a part would replace the record of all images
        result.notes += record_agreement(pairs, compared)
    show_result(call.console, result, errors())
    if call.as_json:
        print_json(compared.to_json())
    else:
        output().print(agreement_table(compared))
        output().print(differences_table(compared.images))
        if compared.truth is not None:
            say(output(), compared.truth.sentence())
    return 1 if compared.failed else 0


def _settings_of(call: Invocation, run: Path | None) -> Config:
    """The settings of a way in `compare`; a run keeps its classes, as `data.classes` names those of other folders."""
    if run is None:
        return call.config
    config, recorded = call.on_top_of(run), read_yaml(run / "config.yaml").get("data") or {}
    return replace(config, data=replace(config.data, classes=recorded.get("classes")))
