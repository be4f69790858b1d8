"""Evidence files: what is known of one photograph's mask, as an ``.npz`` without pickles.

``ids`` int32 (K,), ``values`` float32 (K, F) in the order of `FIELDS`, ``stray`` int32 () with ``stray_share`` float32
(), and ``made_by``, a text that tells what it was made from.
"""

import io
import zipfile
import zlib

import numpy as np

from tag2mask.confidence.evidence import FIELDS, Evidence
from tag2mask.outputs import File, write_bytes

_DAMAGED = (OSError, ValueError, EOFError, KeyError, NotImplementedError, zipfile.BadZipFile, zlib.error)


def write_evidence(path: File, evidence: Evidence, made_by: str) -> None:
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


def read_evidence(path: File, made_by: str) -> Evidence | None:
    """Read evidence; None where there is none, it is damaged, or it was made from something else."""
    stored = stored_evidence(path)
    return stored[0] if stored is not None and stored[1] == made_by else None


def stored_evidence(path: File) -> tuple[Evidence, str] | None:
    """Evidence and what it was made from; None where there is none, or it is damaged."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            ids, values, told = archive["ids"], archive["values"], str(archive["made_by"])
            stray, share = int(archive["stray"]), float(archive["stray_share"])
    except _DAMAGED:
        return None
    if ids.ndim != 1 or values.shape != (len(ids), len(FIELDS)):
        return None
    return Evidence(ids, values, stray, share), told
