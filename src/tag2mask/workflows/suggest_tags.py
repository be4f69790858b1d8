"""`tags`: suggests tags for images without tags, in a table that a person has to review."""

import csv
import io
from pathlib import Path

import torch

from tag2mask.cams.clip.clip_es import class_scores
from tag2mask.cams.clip.model import load_clip, model_precision
from tag2mask.cams.clip.prompts import read_prompts
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
    ``reviewed``, empty; and three scores per class, in [0, 1]: ``score``, the mean of ``by image`` and ``by patch``.
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
        Tag2maskError: CLIP could not be loaded.
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
    if not prompts.background:
        raise UsageError("seeds.prompts: scores are against background words, and there are none; list some")
    result = StageResult("tags", notes=list(prompts.notices))
    device = resolve_device(config.device)
    clip = load_clip(config.seeds.model, notify=lambda text: console.print(text, highlight=False)).to(device)
    features = clip.text_features(prompts.sentences())
    texts, background_text_features = features[: len(names)], features[len(names) :]
    clip.precision(model_precision(config.seeds.precision, device))
    rows: dict[Path, list[str]] = {}
    batches = batches_by_patches(clip, images, config, result)
    with progress_bar(console, "tags", len(images)) as advance:
        for prepared in prepared_batches(clip, batches, config, result):
            by_image, by_patch = class_scores(clip, [each.image for each in prepared], texts, background_text_features)
            scores = torch.stack([(by_image + by_patch) / 2, by_image, by_patch], 2)  # (B, C, 3)
            for each, own in zip(prepared, scores.tolist(), strict=True):
                found = [name for name, (score, *_) in zip(names, own, strict=True) if score >= threshold]
                numbers = [f"{value:.3f}" for triple in own for value in triple]
                rows[each.item.path] = [";".join(found), "", *numbers]
                result.done += 1
            advance(result.done)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = [f"{kind}: {name}" for name in names for kind in ("score", "by image", "by patch")]
    writer.writerow(["image", SUGGESTED, "reviewed", *columns])
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
