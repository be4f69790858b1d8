"""`tags`: suggests tags for images without tags, in a table that a person has to review."""

import csv
import io
from pathlib import Path

from tag2mask.cams.clip.prompts import read_prompts
from tag2mask.cams.seed_models import load_seed_model
from tag2mask.core.device import resolve_device
from tag2mask.core.errors import UsageError
from tag2mask.core.files import write_text
from tag2mask.data.classes import require_classes_in
from tag2mask.data.dataset import find_images
from tag2mask.data.readers.table_columns import SUGGESTED
from tag2mask.runs.config import Config
from tag2mask.runs.progress import Console, StageResult, progress_bar
from tag2mask.stages.seeds import batches_by_patches, prepared_batches


def suggest_tags(
    config: Config, place: Path, classes: str | None, target: Path, threshold: float, console: Console
) -> StageResult:
    """Score every class in every image below a folder, and write the table.

    The columns are ``image``; ``suggested``, the classes with a score of at least the threshold, joined by ``;``;
    ``reviewed``, empty; and for each class its ``score``, in [0, 1].
    `data.tags` refuses the table until a column is called ``tags``.

    Args:
        config: ``seeds`` names the model and the prompts.
        place: the folder with images, subfolders included.
        classes: names with commas, or a file; None: ``data.classes``.
        target: the table to write.
        threshold: in [0, 1].
        console: for progress.

    Raises:
        UsageError: no images, no classes, no background words, or the table exists.
        Tag2maskError: the model could not be loaded.
    """
    names = _class_names(classes or config.data.classes)
    if config.shard is not None:
        raise UsageError("tags writes one table, so --shard does not apply; give each shard its own folder instead")
    if not place.is_dir():
        raise UsageError(f"{place} is not a folder of images")
    if target.exists():
        raise UsageError(f"{target} exists, and a person may have reviewed it; give another --table")
    if not 0 <= threshold <= 1:
        raise UsageError(f"--threshold should lie in [0, 1], received {threshold}")
    images = find_images(place).items[: config.limit]
    prompts = read_prompts(config.seeds.prompts, names)
    result, device = StageResult("tags"), resolve_device(config.device)
    found = load_seed_model(
        config.seeds, prompts, device, scores=True, notify=lambda text: console.print(text, highlight=False)
    )
    result.notes += prompts.notices if found.reads_background else []
    rows: dict[Path, list[str]] = {}
    batches = batches_by_patches(found.model, images, config, result)
    with progress_bar(console, "tags", len(images)) as advance:
        for prepared in prepared_batches(found.model, batches, config, result):
            scores = found.scores([each.image for each in prepared]).tolist()
            for each, own in zip(prepared, scores, strict=True):
                suggested = [name for name, score in zip(names, own, strict=True) if score >= threshold]
                rows[each.item.path] = [";".join(suggested), "", *(f"{score:.3f}" for score in own)]
                result.done += 1
            advance(result.done)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", SUGGESTED, "reviewed", *(f"score: {name}" for name in names)])
    for item in images:
        if item.path in rows:
            writer.writerow([item.path.relative_to(place).as_posix(), *rows[item.path]])
    write_text(target, text.getvalue())
    result.notes.append(
        f"{target} holds suggestions; look at each, correct `{SUGGESTED}`, and name that column `tags`; "
        f"then `--data.tags {target} --data.root {place}`"
    )
    return result


def _class_names(value: str | None) -> tuple[str, ...]:
    if value is None:
        raise UsageError("tags needs --classes, names with commas or a file, of what the images may hold")
    return require_classes_in(value)
