"""Evidence files: what is known of one photograph's mask, as an ``.npz`` without pickles.

``ids`` int32 (K,), ``values`` float32 (K, F) in the order of `FIELDS`, ``stray`` int32 () with ``stray_share`` float32
(), and ``made_by``, a text that tells what it was made from.
"""

import io
from pathlib import Path

import numpy as np

from tag2mask.confidence.evidence import FIELDS, Evidence
from tag2mask.files import DAMAGED, read_npz, write_bytes

_KINDS = {"ids": "i", "values": "f", "stray": "i", "stray_share": "f", "made_by": "U"}
"""The arrays of a file, and NumPy's letter for what they hold."""

_MOST_CLASSES = 254
"""Ids are those of masks, where 255 means ignored."""


def write_evidence(path: Path, evidence: Evidence, made_by: str) -> None:
    """Write evidence, atomically.

    Args:
        path: an ``.npz``.
        evidence: what is known.
        made_by: what it was made from; `read_evidence` wants the same.
    """
    content = io.BytesIO()
    np.savez(
        content,
        ids=evidence.ids,
        values=evidence.values,
        stray=np.int32(evidence.stray),
        stray_share=np.float32(evidence.stray_share),
        made_by=np.str_(made_by),
    )
    write_bytes(path, content.getvalue())


def read_evidence(path: Path, made_by: str) -> Evidence | None:
    """Read evidence; None where there is none, it is damaged, or it was made from something else."""
    stored = stored_evidence(path)
    return stored[0] if stored is not None and stored[1] == made_by else None


def stored_evidence(path: Path) -> tuple[Evidence, str] | None:
    """Evidence and what it was made from; None where there is none, or it is damaged.

    Fields that came later than the file are not known.
    """
    try:
        with path.open("rb") as file:
            arrays = read_npz(file, tuple(_KINDS))
    except DAMAGED:
        return None
    if any(name not in arrays or arrays[name].dtype.kind != kind for name, kind in _KINDS.items()):
        return None
    ids, values, stray, share = (arrays[name] for name in ("ids", "values", "stray", "stray_share"))
    if ids.ndim != 1 or not len(ids) or ids[0] != 0 or ids[-1] > _MOST_CLASSES or (ids[1:] <= ids[:-1]).any():
        return None
    if values.ndim != 2 or len(values) != len(ids) or not 0 < values.shape[1] <= len(FIELDS):
        return None
    if stray.shape or share.shape or arrays["made_by"].shape:
        return None
    if not 0 <= int(stray) <= _MOST_CLASSES or not 0 <= float(share) <= 1 or np.isinf(values).any():
        return None
    known = np.full((len(ids), len(FIELDS)), np.nan, dtype=np.float32)
    known[:, : values.shape[1]] = values
    return Evidence(ids.astype(np.int32), known, int(stray), float(share)), str(arrays["made_by"])
