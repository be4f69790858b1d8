"""Who judges a run's masks: the CAMs that they were made from, and its segmentation network; and what they said."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tag2mask.confidence.evidence import Evidence, read_evidence
from tag2mask.data.photo import Photo
from tag2mask.data.photos import PhotoSet
from tag2mask.networks.checkpoint import load_segmentation_network
from tag2mask.origin import cam_origin, crc_of
from tag2mask.pipeline.config import Config, plain
from tag2mask.pipeline.progress import StageResult
from tag2mask.pipeline.run_folder import RunFolder
from tag2mask.predictor import SEGMENT_NETWORK, Predictor
from tag2mask.refine.settings import RefineSettings

EVIDENCE = "confidence/evidence"
"""The folder with what is known of each photograph's mask."""

VERSION = 1
"""Raised by hand whenever the same masks, CAMs and network would give other evidence."""

LONG_SIDE = 256
"""Pixels of the longer side at which masks, CAMs and the network are compared, at most; ours."""


@dataclass(frozen=True)
class Witnesses:
    """Where the evidence comes from, and goes to.

    Attributes:
        masks: the masks that are judged.
        cams: the CAMs.
        evidence: the folder of what was found.
        network: None without one that learnt from these masks.
        background: level of a background that the CAMs lack, as `ClassMaps.with_background` takes it.
        made_by: all of it that evidence depends on, as a text, but for the files of each photograph.
    """

    masks: Path
    cams: Path
    evidence: Path
    network: Predictor | None
    background: float
    made_by: str

    @classmethod
    def of(cls, config: Config, run: RunFolder, photos: PhotoSet, result: StageResult) -> "Witnesses":
        """Those of a run; a network that learnt from ground truth would tell it, and is none.

        Args:
            config: every setting.
            run: the run folder.
            photos: the photographs.
            result: takes a note on a network that is none.

        Raises:
            UsageError: the network knows other classes.
        """
        kind = run.setting("refine", "refine.cams") or config.refine.cams
        background = _background(config, run)
        made_by: dict[str, Any] = {
            "version": VERSION,
            "long_side": LONG_SIDE,
            "masks": run.fingerprint("refine"),
            "cams": kind,
        }
        if not RefineSettings(cams=kind).has_background:
            made_by["background"] = background, None  # earlier versions had a power in the second place
        path: Path | None = run / SEGMENT_NETWORK
        network = None
        if _learnt_truth(run):
            path = None
            result.notes.append(
                f"{run / SEGMENT_NETWORK} learnt from ground truth (segment.labels truth), so it judges no mask"
            )
        elif path is not None and path.is_file():
            own = load_segmentation_network(path, classes=photos.classes)
            network = Predictor(own, config.device, config.predict, pixel_limit=config.data.pixel_limit)
            read = plain(config.predict, affecting=True).items()
            predict = {name: value for name, value in read if not name.startswith("crf")}
            made_by |= {"network": crc_of(path), "predict": predict}
        folders = run / "masks", run / f"cams/{kind}", run / EVIDENCE
        return cls(*folders, network, background, json.dumps(made_by, sort_keys=True))

    def evidence_of(self, photo: Photo) -> Evidence | None:
        """The evidence about a photograph with these tags from these witnesses; None where there is none."""
        found = read_evidence(self.evidence / f"{photo.id}.npz", self.made_by_of(photo))
        return found if found is not None and tuple(found.ids.tolist()) == (0, *photo.tags) else None

    def made_by_of(self, photo: Photo) -> str:
        """All that the evidence about a photograph depends on, its mask and its CAM file among it."""
        try:
            mask = crc_of(self.masks / f"{photo.id}.png")
        except OSError:
            mask = None
        return json.dumps([self.made_by, mask, cam_origin(self.cams / f"{photo.id}.npz")])

    def is_stale(self, photo: Photo) -> bool:
        """Whether evidence is missing, or of something else."""
        return self.evidence_of(photo) is None


def _learnt_truth(run: RunFolder) -> bool:
    """Whether the segmentation network of a run learnt from ground truth."""
    return (run / SEGMENT_NETWORK).is_file() and run.setting("segment", "segment.labels") == "truth"


def _background(config: Config, run: RunFolder) -> float:
    """Level of the background as the masks were made with; that of the settings where `refine` read none."""
    level = run.setting("refine", "refine.background_threshold")
    return config.refine.background_threshold if level is None else float(level)
