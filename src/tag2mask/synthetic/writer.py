"""Writes generated scenes as a data set of images, tags and masks for evaluation."""

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tag2mask.core.errors import UsageError, first_five
from tag2mask.core.fields import plain
from tag2mask.core.files import read_json, remove_partial, write_json, write_text
from tag2mask.data import write_mask
from tag2mask.data.images import write_jpeg
from tag2mask.synthetic.composition import render_scene
from tag2mask.synthetic.settings import SceneSettings
from tag2mask.synthetic.species import SPECIES

VERSION = 1
"""Version of the generator; increase it when equal settings give other scenes."""
MANIFEST = "scenes.json"


def write_scenes(folder: Path, settings: SceneSettings, *, on_scene: Callable[[str], None] | None = None) -> bool:
    """Write generated scenes as a table data set.

    ::

        folder/
          scenes.json               settings, and whether the folder is complete
          tags.csv                  image,tags,split
          train/0000.jpg …          val/0000.jpg …
          masks/train/0000.png …    masks/val/0000.png …

    Open it with ``data.root = folder`` and ``data.masks = folder/masks``. An incomplete folder is written again.

    Args:
        on_scene: called with the ID of each written scene.

    Returns:
        False if the folder was complete already.

    Raises:
        UsageError: the folder contains other files, or scenes of other settings.
    """
    manifest = {"generator": VERSION, "settings": plain(settings, affecting=True)}
    if _is_complete(folder, manifest):
        return False
    remove_partial(folder)
    write_json(folder / MANIFEST, {**manifest, "complete": False})
    table = io.StringIO(newline="")
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("image", "tags", "split"))
    for split, count in (("train", settings.train), ("val", settings.val)):
        for index in range(count):
            name, scene = f"{split}/{index:04d}", render_scene(settings, split, index)
            write_mask(folder / "masks" / f"{name}.png", scene.mask)
            write_jpeg(folder / f"{name}.jpg", scene.image, quality=92)
            writer.writerow((f"{name}.jpg", ";".join(SPECIES[tag - 1].name for tag in scene.tags), split))
            if on_scene is not None:
                on_scene(name)
    write_text(folder / "tags.csv", table.getvalue())
    write_json(folder / MANIFEST, {**manifest, "complete": True})
    return True


def class_names(settings: SceneSettings) -> tuple[str, ...]:
    """The names of the classes 1, 2, …, in alphabetical order."""
    return tuple(species.name for species in SPECIES[: settings.classes])


def _is_complete(folder: Path, manifest: dict[str, Any]) -> bool:
    """Whether the folder has all scenes of these settings; a `UsageError` if it contains anything else."""
    if not folder.exists() or not any(folder.iterdir()):
        return False
    if not (folder / MANIFEST).is_file():
        raise UsageError(
            f"{folder} contains other files than generated scenes (no {MANIFEST}); name an empty or a new folder"
        )
    found = read_json(folder / MANIFEST, f"delete the folder {folder} to have its scenes made again")
    wanted = {"generator": manifest["generator"], **manifest["settings"]}
    known = {"generator": found.get("generator"), **found.get("settings", {})}
    changed = [f"{name} ({known.get(name)} there)" for name, value in wanted.items() if known.get(name) != value]
    if changed:
        raise UsageError(f"{folder} has scenes of other settings: {first_five(changed)}; name another, or delete it")
    return bool(found.get("complete"))
