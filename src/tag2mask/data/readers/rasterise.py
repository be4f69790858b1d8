"""Ground truth of a COCO root: class masks painted from its annotations, once."""

import os
import signal
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tag2mask.core.errors import Tag2maskError, UsageError, first_five
from tag2mask.core.files import one_at_a_time, read_json, remove_partial, write_json
from tag2mask.data.images import IGNORED, write_mask
from tag2mask.data.problems import Problem, error, refuse_errors
from tag2mask.data.readers.coco_annotations import Annotation, AnnotationFile, read_annotations
from tag2mask.data.readers.coco_rle import Size, area, pixels, to_runs
from tag2mask.data.readers.image_paths import ImageLocator
from tag2mask.data.readers.scan import file_names
from tag2mask.data.settings import Crowd

RECORD = "painted.json"  # the file in a folder of painted masks that says how they were painted

RULE = "crowds, then instances, each the larger first; equal ones by annotation id"
"""The order of rasterisation, as recorded. Ours: published code disagrees; in this order small objects stay visible."""


@dataclass(frozen=True)
class Rasterisation:
    """The masks of some images, to be painted from annotations.

    Attributes:
        folder: of the masks ID.png.
        crowd: as of `paint`.
        sources: the annotation files, with the SHA-256 of each.
        sizes: (H, W) of each image by ID, as annotated.
    """

    folder: Path
    crowd: Crowd
    sources: dict[Path, str]
    sizes: dict[str, Size]


class Job(NamedTuple):
    """One mask to paint; ``ids`` are the class ids by category."""

    target: Path
    size: Size
    instances: list[Annotation]
    ids: dict[int, int]
    crowd: Crowd


def paint(size: Size, instances: Iterable[Annotation], ids: dict[int, int], crowd: Crowd) -> npt.NDArray[np.uint8]:
    """A class mask from annotations: crowds first, then objects, each the larger first, so that small ones lie on top.

    Args:
        size: (H, W) of the mask.
        instances: the annotations of the image; sound ones.
        ids: class ids 1..C by category; annotations of other categories are left out.
        crowd: a crowd becomes ``ignore``: 255; ``paint``: its class; ``skip``: nothing.

    Returns:
        uint8 (H, W). Larger is by the pixels of the annotation's own mask; of equal ones that with the greater
        annotation id lies on top. Source: ours.
    """
    drawn = []
    for instance in instances:
        runs = to_runs(instance.segmentation, size)
        if runs is None or instance.category not in ids or (instance.crowd and crowd == "skip"):
            continue
        value = IGNORED if instance.crowd and crowd == "ignore" else ids[instance.category]
        drawn.append(((not instance.crowd, -area(runs), instance.number), value, runs))
    mask = np.zeros(size, dtype=np.uint8)
    for _, value, runs in sorted(drawn, key=lambda item: item[0]):
        mask[pixels(runs)] = value
    return mask


def rasterise_masks(
    rasterisation: Rasterisation,
    wanted: Collection[str],
    classes: tuple[str, ...],
    *,
    workers: int,
    pixel_limit: int,
    on_mask: Callable[[int], None],
) -> None:
    """Paint the masks of some images into the folder, with a record of how they were painted.

    Args:
        rasterisation: the source and the folder.
        wanted: IDs of the images.
        classes: the C names in the order of their ids.
        workers: processes that paint; up to 1: this one alone. The masks do not depend on it.
        pixel_limit: a larger mask is refused.
        on_mask: called with the masks done so far.

    Raises:
        UsageError: the folder holds masks that were made otherwise, or the annotations are faulty.
    """
    if has_external_masks(rasterisation.folder):
        raise UsageError(
            f"{rasterisation.folder} holds masks that were not painted here, and lacks {len(wanted)} of those that are "
            "needed; name a new folder as data.masks to have all painted"
        )
    refuse_errors(record_problems(rasterisation, classes))
    sources = {path: read_annotations(path, str(path)) for path in rasterisation.sources}
    refuse_errors(problem for found in sources.values() for problem in found.problems)
    large = [name for name in sorted(wanted) if np.prod(rasterisation.sizes[name]) > pixel_limit]
    if large:
        raise UsageError(
            f"{len(large)} masks would have more than data.pixel_limit = {pixel_limit:,} pixels: {first_five(large)}"
        )
    if (rasterisation.folder / RECORD).is_file():
        remove_partial(rasterisation.folder)
    _write_record(replace(rasterisation, sources={path: found.digest for path, found in sources.items()}), classes)
    numbers = {name: number for number, name in enumerate(classes, 1)}
    jobs = [job for path, found in sources.items() for job in _jobs(rasterisation, path, found, wanted, numbers)]
    for done, _ in enumerate(_painted(jobs, workers), 1):
        on_mask(done)


def has_external_masks(folder: Path) -> bool:
    """Whether a folder holds masks that were not painted here."""
    names = file_names(folder)
    # The record is looked for after the masks: another command writes it before them.
    return any(name.endswith(".png") for name in names) and not (folder / RECORD).is_file()


def record_problems(rasterisation: Rasterisation, classes: tuple[str, ...]) -> Iterator[Problem]:
    """Whether the masks of the folder were painted otherwise than they would be now."""
    path = rasterisation.folder / RECORD
    if not path.is_file():
        return
    try:
        record = read_json(path)
    except Tag2maskError:
        record = None
    if not isinstance(record, dict) or not isinstance(record.get("sources"), dict):
        message = "it should say how the masks beside it were painted, and cannot be read"
        yield error("mask-record", str(path), f"{message}; delete the folder, and they are painted anew")
        return
    now = {"rule": RULE, "crowd": rasterisation.crowd, "classes": list(classes)}
    shown = {
        "rule": "by another rule",
        "crowd": f"with data.crowd {record.get('crowd')}",
        "classes": "of other classes",
    }
    changed = [shown[key] for key, value in now.items() if record.get(key) != value]
    before = record["sources"]
    files = [
        source.name for source, digest in rasterisation.sources.items() if before.get(source.name, digest) != digest
    ]
    changed += [f"from another {name}" for name in files]
    if changed:
        message = f"the masks here were painted {' and '.join(changed)}"
        remedy = "name another folder as data.masks, or delete this one to have them painted anew"
        yield error("mask-record", str(path), f"{message}; {remedy}")


def _write_record(rasterisation: Rasterisation, classes: tuple[str, ...]) -> None:
    """Record in the folder how its masks are painted; sources of other splits and commands are kept.

    Raises:
        UsageError: another command has meanwhile begun to paint otherwise here.
    """
    path = rasterisation.folder / RECORD
    with one_at_a_time(path.with_name(f"{path.name}.lock")):
        refuse_errors(record_problems(rasterisation, classes))
        before = read_json(path)["sources"] if path.is_file() else {}
        digests = before | {source.name: digest for source, digest in rasterisation.sources.items()}
        write_json(path, {"rule": RULE, "crowd": rasterisation.crowd, "classes": list(classes), "sources": digests})


def _jobs(
    rasterisation: Rasterisation, path: Path, found: AnnotationFile, wanted: Collection[str], numbers: dict[str, int]
) -> Iterator[Job]:
    ids = {category: numbers[name] for category, name in found.categories.items() if name in numbers}
    find = ImageLocator(path).find
    for number, image in found.images.items():
        if (image_id := find(image.name).id) in wanted:
            target = rasterisation.folder / f"{image_id}.png"
            yield Job(target, image.size, found.instances.get(number, []), ids, rasterisation.crowd)


def _painted(jobs: list[Job], workers: int) -> Iterator[None]:
    """Paint the masks, and stop after each."""
    if workers <= 1:
        yield from map(_paint_one, jobs)
        return
    # A forked process may hang where the parent has threads, as torch does.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_end_with_parent) as pool:
        with _no_interrupts():
            done = pool.map(_paint_one, jobs, chunksize=16)
        yield from done


def _end_with_parent() -> None:
    """End this process when its parent does: a parent that is killed ends no processes of a pool."""
    parent = parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)  # what it was writing has a temporary name

    Thread(target=watch, daemon=True).start()


@contextmanager
def _no_interrupts() -> Iterator[None]:
    """Ctrl-C waits, and does not reach processes that start here: a pool whose workers die hangs."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _paint_one(job: Job) -> None:
    write_mask(job.target, paint(job.size, job.instances, job.ids, job.crowd))
