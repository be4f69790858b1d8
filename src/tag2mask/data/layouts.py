"""Layouts of other tools that would pass for class folders: recognised by their marker files, with what to do."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

from tag2mask.data.listing import is_hidden, is_image_name

SPLITS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing", "dev"})
"""Names of folders that are splits."""

PARTS = frozenset(
    {"images", "image", "imgs", "img", "photos", "pictures", "jpegimages", "masks", "mask", "labels", "label", "gt"}
    | {"annotations", "annotation", "ground_truth", "groundtruth", "segmentation", "segmentationclass", "labelmaps"}
)
"""Names of folders that hold the images, or what was drawn on them."""

_TABLE = "write a table `image,tags` and give it as --data.tags"


def known_layout(root: Path) -> str | None:
    """What a folder is, and what to do, if it is not class folders but the layout of a tool; None if it may be those.

    Args:
        root: the folder that would be read as class folders.
    """
    try:
        return _layout(sorted(item for item in root.iterdir() if not is_hidden(item.name)))
    except OSError:  # who reads the folders says so
        return None


def _layout(items: list[Path]) -> str | None:
    """The same of the items of the folder."""
    files = {item.name.lower() for item in items if item.is_file()}
    folders = [item for item in items if item.is_dir()]
    names = {folder.name.lower() for folder in folders}
    for test, advice in _TOOLS:
        if test(files, names, folders):
            return advice
    if names and names <= SPLITS:
        inner = sorted(folder for folder in folders if folder.name.lower().startswith("tr")) or folders
        return f"the top folders are splits ({_listed(folders)}); give one as --data.root {inner[0]}, or {_TABLE}"
    if names and names <= PARTS | SPLITS:
        return (
            f"the top folders hold images and what was drawn on them ({_listed(folders)}); give the folder of the "
            f"images as --data.root, that of the masks as --data.masks, and {_TABLE}"
        )
    inspection = next((each for each in folders if (each / "ground_truth").is_dir() and (each / "test").is_dir()), None)
    if inspection is not None:
        return f"each top folder is an inspection set of its own; give one as --data.root {inspection}"
    return None


def _listed(folders: Iterable[Path]) -> str:
    return ", ".join(folder.name for folder in list(folders)[:5])


def _is_labelme(files: set[str], names: set[str], folders: list[Path]) -> bool:
    """Whether a JSON file of LabelMe lies next to its image, in the first folder that has images."""
    for folder in folders[:5]:
        for image in (path for path in sorted(folder.iterdir())[:20] if is_image_name(path.name)):
            try:
                found = json.loads(image.with_suffix(".json").read_bytes()[:50_000_000])
            except (OSError, ValueError, RecursionError):
                continue
            if isinstance(found, dict) and "shapes" in found:
                return True
    return False


_Test = Callable[[set[str], set[str], list[Path]], bool]

_TOOLS: tuple[tuple[_Test, str], ...] = (
    (
        lambda files, names, folders: any((folder / "_annotations.coco.json").is_file() for folder in folders),
        "this is COCO's format as Roboflow writes it; move each SPLIT/_annotations.coco.json to "
        "ROOT/annotations/instances_SPLIT.json",
    ),
    (
        lambda files, names, folders: (
            bool(files & {"obj.names", "obj.data"})
            or {"images", "labels"} <= names
            or bool(files & {"data.yaml", "dataset.yaml"} and names & (PARTS | SPLITS))
        ),
        f"this is YOLO's layout, whose labels are not read; export it as COCO, or {_TABLE}",
    ),
    (
        lambda files, names, folders: (
            {"metadata.json", "samples.json"} <= files or ("labels.json" in files and "data" in names)
        ),
        "this is an export of FiftyOne; move labels.json to ROOT/annotations/instances_data.json if it is COCO's "
        f"format, or {_TABLE}",
    ),
    (
        lambda files, names, folders: (
            ("result.json" in files and "images" in names) or {"notes.json", "classes.txt"} <= files
        ),
        "this is an export of Label Studio; in COCO's format, move result.json to "
        "ROOT/annotations/instances_images.json, or export CSV and give it as --data.tags",
    ),
    (
        lambda files, names, folders: "annotations.xml" in files,
        f"this is an export of CVAT for images; export it as COCO 1.0, or {_TABLE}",
    ),
    (_is_labelme, f"JSON files of LabelMe lie next to the images and are not read; {_TABLE}"),
)
"""How a tool's export is recognised by lower-case names of top files, of top folders, and these; and what to do."""
