"""Throughput of each stage in a run, recorded so that ``--dry-run`` can estimate the remaining time."""

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
_MAXIMUM = 1e12  # images or seconds in a sound record
_LINES = 10  # of a training log, the last ones: a training may slow down


@contextmanager
def timed_progress_bar(
    run: RunFolder, stage: str, console: Console, total: int, title: str | None = None
) -> Iterator[Advance]:
    """A progress bar over ``total`` images that adds up images and seconds in RUN/throughput/STAGE.json."""
    path, fingerprint = run / f"throughput/{stage}.json", run.fingerprint(stage)
    before = _recorded(path)
    earlier = before if before and before["fingerprint"] == fingerprint else {"images": 0, "seconds": 0.0}
    began = saved = monotonic()
    done_here = 0

    def save() -> None:
        if is_main() and done_here:
            images = earlier["images"] + done_here * process_count()  # the other processes do about as many
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
    """Seconds per image of a stage with its recorded settings; None without a record."""
    found = _recorded(run / f"throughput/{stage}.json")
    if not found.get("images") or found["fingerprint"] != run.fingerprint(stage):
        return None
    return float(found["seconds"] / found["images"])


def _recorded(path: Path) -> dict[str, Any]:
    """A throughput record; empty if it is missing or damaged, since no result depends on it."""
    try:
        found = read_json(path) if path.is_file() else {}
    except Tag2maskError:
        return {}
    sound = isinstance(found, dict) and all(
        isinstance(found.get(name), int | float) and 0 <= found[name] < _MAXIMUM for name in ("images", "seconds")
    )
    return found if sound and "fingerprint" in found else {}


def trained_steps(run: RunFolder, stage: str) -> int:
    """The last logged step of a training with a saved state, about where it resumes; 0 without a state."""
    path = run / f"{stage}/log.jsonl"
    lines = read_log(path)[0] if path.is_file() and (run / f"{stage}/state.pt").is_file() else []
    return int(lines[-1]["step"]) if lines else 0


def seconds_per_step(run: RunFolder, stage: str, batch_size: int) -> float | None:
    """Seconds per step at the end of a training log; None without a log."""
    path = run / f"{stage}/log.jsonl"
    lines = read_log(path)[0][-_LINES:] if path.is_file() else []
    speeds = [line["images_per_second"] for line in lines if line.get("images_per_second")]
    return batch_size / median(speeds) if speeds else None
