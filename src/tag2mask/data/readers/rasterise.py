"""Ground truth of a COCO root: class masks rasterised from its annotations, once."""

import os
import signal
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import active_children, get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tag2mask.core.errors import Tag2maskError, UsageError, first_five
from tag2mask.core.files import one_at_a_time, read_json, remove_partial, require_inside, write_json
from tag2mask.core.machine_errors import require_shared_memory
from tag2mask.data.images import IGNORED, write_mask
from tag2mask.data.problems import Problem, error, refuse_errors
from tag2mask.data.readers.coco_annotations import Annotation, AnnotationFile, read_annotations
from tag2mask.data.readers.coco_rle import Size, area, pixels, to_runs
from tag2mask.data.readers.image_paths import ImageLocator
from tag2mask.data.readers.scan import file_names
from tag2mask.data.settings import Crowd

RECORD = "painted.json"  # describes how the masks of its folder were rasterised

RULE = "crowds, then instances, each the larger first; equal ones by annotation id"
"""The order of rasterisation, as recorded. Ours: published code disagrees; in this order small objects stay visible."""


@dataclass(frozen=True)
class Rasterisation:
    """The rasterisation of annotations to masks."""

    folder: Path  # of the masks ID.png
    crowd: Crowd  # see `rasterise`
    sources: dict[Path, str]  # the annotation files, with their SHA-256
    sizes: dict[str, Size]  # (H, W) of each image by ID, as annotated
    top: Path  # nothing is written outside of it: data.masks, or the root


class Job(NamedTuple):
    """One mask to write."""

    target: Path
    size: Size
    annotations: list[Annotation]
    ids: dict[int, int]  # class ids by category
    crowd: Crowd


def rasterise(
    size: Size, annotations: Iterable[Annotation], ids: dict[int, int], crowd: Crowd
) -> npt.NDArray[np.uint8]:
    """A class mask, uint8 (H, W), from annotations: crowds first, then objects, each in order of decreasing area.

    Args:
        size: (H, W).
        annotations: valid annotations of the image.
        ids: class ids 1..C by category; annotations of other categories are skipped.
        crowd: a crowd becomes ``ignore``: 255; ``paint``: its class; ``skip``: nothing.

    The area is that of the annotation's own mask; among equal ones the greater annotation id is on top. Source: ours.
    """
    layers = []
    for each in annotations:
        runs = to_runs(each.segmentation, size)
        if runs is None or each.category not in ids or (each.crowd and crowd == "skip"):
            continue
        value = IGNORED if each.crowd and crowd == "ignore" else ids[each.category]
        layers.append(((not each.crowd, -area(runs), each.number), value, runs))
    mask = np.zeros(size, dtype=np.uint8)
    for _, value, runs in sorted(layers, key=lambda layer: layer[0]):
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
    """Write the masks of some images, and a record of how they were made.

    Args:
        rasterisation: the source and the folder.
        wanted: IDs of the images.
        classes: the C names.
        workers: processes; up to 1: this one. The masks do not depend on it.
        pixel_limit: a larger mask is refused.
        on_mask: called with the number of masks done so far.

    Raises:
        UsageError: the folder has masks of another origin, a link leads out of it, or the annotations are invalid.
    """
    folder = rasterisation.folder
    require_inside(rasterisation.top, folder / RECORD)
    if has_external_masks(folder):
        raise UsageError(
            f"{folder} holds masks that were not rasterised here, and lacks {len(wanted)} of those that are "
            "needed; name a new folder as data.masks to have all rasterised"
        )
    refuse_errors(record_problems(rasterisation, classes))
    sources = {path: read_annotations(path, str(path)) for path in rasterisation.sources}
    refuse_errors(problem for found in sources.values() for problem in found.problems)
    large = [name for name in sorted(wanted) if np.prod(rasterisation.sizes[name]) > pixel_limit]
    if large:
        raise UsageError(
            f"{len(large)} masks would have more than data.pixel_limit = {pixel_limit:,} pixels: {first_five(large)}"
        )
    if (folder / RECORD).is_file():
        remove_partial(folder)
    _write_record(replace(rasterisation, sources={path: found.digest for path, found in sources.items()}), classes)
    numbers = {name: number for number, name in enumerate(classes, 1)}
    jobs = [job for path, found in sources.items() for job in _jobs(rasterisation, path, found, wanted, numbers)]
    for done, _ in enumerate(_run(jobs, workers), 1):
        on_mask(done)


def has_external_masks(folder: Path) -> bool:
    """Whether a folder has masks that were not rasterised by this package."""
    names = file_names(folder)
    # The record is checked after the masks, since another command writes it before them.
    return any(name.endswith(".png") for name in names) and not (folder / RECORD).is_file()


def record_problems(rasterisation: Rasterisation, classes: tuple[str, ...]) -> Iterator[Problem]:
    """Errors if the masks of the folder were made with other settings or from other annotations."""
    path = rasterisation.folder / RECORD
    if not path.is_file():
        return
    try:
        record = read_json(path)
    except Tag2maskError:
        record = None
    if not isinstance(record, dict) or not isinstance(record.get("sources"), dict):
        message = "it should say how the masks next to it were rasterised, and cannot be read"
        yield error("mask-record", str(path), f"{message}; delete the folder to have them rasterised again")
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
        message = f"the masks here were rasterised {' and '.join(changed)}"
        remedy = "name another folder as data.masks, or delete this one to have them rasterised again"
        yield error("mask-record", str(path), f"{message}; {remedy}")


def _write_record(rasterisation: Rasterisation, classes: tuple[str, ...]) -> None:
    """Record how the masks are made; sources of other splits are kept.

    Raises:
        UsageError: another command has started with other settings.
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
            require_inside(rasterisation.top, target)
            yield Job(target, image.size, found.annotations.get(number, []), ids, rasterisation.crowd)


def _run(jobs: list[Job], workers: int) -> Iterator[None]:
    if workers <= 1:
        yield from map(_write_mask, jobs)
        return
    require_shared_memory()
    # A forked process may hang if the parent has threads, as torch does.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_end_with_parent) as pool:
        with _no_interrupts():
            done = pool.map(_write_mask, jobs, chunksize=16)
        try:
            yield from done
        except BaseException:
            for process in active_children():  # one that hangs would keep the pool from ending
                process.kill()
            raise


def _end_with_parent() -> None:
    """Exit when the parent exits: a killed parent does not end the processes of its pool."""
    parent = parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)  # unfinished files have temporary names

    Thread(target=watch, daemon=True).start()


@contextmanager
def _no_interrupts() -> Iterator[None]:
    """Block SIGINT, also in processes that start here: a pool hangs if its workers die."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _write_mask(job: Job) -> None:
    write_mask(job.target, rasterise(job.size, job.annotations, job.ids, job.crowd))
