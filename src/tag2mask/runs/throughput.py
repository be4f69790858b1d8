"""How fast the stages of a run worked in its folder: what a dry run tells the time by."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from time import monotonic
from typing import Any

from tag2mask.core.distributed import is_main, process_count
from tag2mask.core.errors import Tag2maskError
from tag2mask.core.files import read_json, write_json
from tag2mask.report.figures import read_log
from tag2mask.runs.progress import Advance, Console, progress_bar
from tag2mask.runs.run_folder import RunFolder

_SAVE_SECONDS = 20.0
"""How often the pace is written down; a kill costs no more than that."""

_MOST = 1e12
"""Images and seconds that nobody reaches."""

_LINES = 10
"""Lines of a training's log, the last ones, whose speed counts: a training may slow down on its way."""


@contextmanager
def timed_progress_bar(
    run: RunFolder, stage: str, console: Console, total: int, title: str | None = None
) -> Iterator[Advance]:
    """A progress bar over images; how many took how long is added up in RUN/pace/STAGE.json.

    Args:
        run: the run folder, in which the stage has claimed its files, if it does so at all.
        stage: its name.
        console: of the bar.
        total: images to do.
        title: of the bar; the stage's name if not given.
    """
    path, fingerprint = run / f"pace/{stage}.json", run.fingerprint(stage)
    before = _recorded(path)
    earlier = before if before and before["fingerprint"] == fingerprint else {"images": 0, "seconds": 0.0}
    began = saved = monotonic()
    done_here = 0

    def save() -> None:
        if is_main() and done_here:
            images = earlier["images"] + done_here * process_count()  # the others do about as many
            seconds = round(earlier["seconds"] + monotonic() - began, 3)
            write_json(path, {"fingerprint": fingerprint, "images": images, "seconds": seconds})

    try:
        with progress_bar(console, title or stage, total) as advance:

            def counted(done: int, note: str = "") -> None:
                nonlocal done_here, saved
                done_here = done
                advance(done, note)
                if monotonic() - saved > _SAVE_SECONDS:
                    saved = monotonic()
                    save()

            yield counted
    finally:
        save()


def seconds_per_image(run: RunFolder, stage: str) -> float | None:
    """How long an image has taken in a stage with the settings that its files have; None where none has."""
    path = run / f"pace/{stage}.json"
    found = _recorded(path)
    if not found.get("images") or found["fingerprint"] != run.fingerprint(stage):
        return None
    return float(found["seconds"] / found["images"])


def _recorded(path: Path) -> dict[str, Any]:
    """What a file of a pace says; nothing where it is missing, or does not say it: the work does not depend on it."""
    try:
        found = read_json(path) if path.is_file() else {}
    except Tag2maskError:
        return {}
    sound = isinstance(found, dict) and all(
        isinstance(found.get(name), int | float) and 0 <= found[name] < _MOST for name in ("images", "seconds")
    )
    return found if sound and "fingerprint" in found else {}


def trained_steps(run: RunFolder, stage: str) -> int:
    """The step that training would about go on from: the last one logged, if there is a saved state."""
    path = run / f"{stage}/log.jsonl"
    lines = read_log(path)[0] if path.is_file() and (run / f"{stage}/state.pt").is_file() else []
    return int(lines[-1]["step"]) if lines else 0


def seconds_per_step(run: RunFolder, stage: str, batch_size: int) -> float | None:
    """How long a step of training has lately taken, by its log; None where nothing is logged."""
    path = run / f"{stage}/log.jsonl"
    lines = read_log(path)[0][-_LINES:] if path.is_file() else []
    speeds = [line["images_per_second"] for line in lines if line.get("images_per_second")]
    return batch_size / median(speeds) if speeds else None
