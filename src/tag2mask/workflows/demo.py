"""`demo`: generates the data set of its run."""

from dataclasses import replace
from pathlib import Path

from tag2mask.runs.config import Config
from tag2mask.runs.progress import Console, progress_bar
from tag2mask.synthetic import write_scenes

FOLDER = Path("tag2mask-demo")
"""The default run folder."""


def prepare_demo(config: Config, console: Console, *, measured: bool) -> Config:
    """Write generated scenes into the run folder, unless they exist; return the settings of a `run` over them.

    Args:
        measured: compare with the ground truth of the scenes.
    """
    out = config.out or FOLDER
    folder = out / "scenes"
    done = 0
    with progress_bar(console, "scenes", config.scenes.train + config.scenes.val) as advance:

        def on_scene(name: str) -> None:
            nonlocal done
            done += 1
            advance(done)

        write_scenes(folder, config.scenes, on_scene=on_scene)
    data = replace(
        config.data, kind="table", root=folder, tags=folder / "tags.csv", masks=folder / "masks" if measured else None
    )
    return replace(config, out=out, data=data)
