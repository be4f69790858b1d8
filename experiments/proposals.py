"""Compares the dense CRF with votes over superpixels as proposals: of CAMs, of the CRF, and of CAMs before a CRF.

python experiments/proposals.py RUN [--split train] [--every 1] [--kinds SLIC,Felzenszwalb,watershed]

A proposal takes the class with the highest mean posterior of its pixels. It abstains where the two highest means
differ by less than a margin: its pixels keep the CRF's labels, or, before a CRF, the CAMs. Every second image chooses
size and margin, the others report. RUN has POT CAMs and ground truth. Needs scikit-image.
"""

import argparse
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import distance_transform_edt, label, maximum_filter, minimum_filter

from error_bars import Counts, counts_of, estimate, miou, paired
from maps import open_run
from tag2mask.data.cam_files import full_resolution, read_cam
from tag2mask.data.images import IGNORED, read_image, read_mask
from tag2mask.refine import dense_crf
from tag2mask.refine.crf import crf_kernels
from tag2mask.refine.settings import RefineSettings
from tag2mask.runs.ground_truth import class_ids

Labels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Segments = npt.NDArray[np.intp]

SIZES = ("coarse", "medium", "fine")
MARGINS = (0.0, 0.1, 0.2, 0.4)
REGIONS = "ground-truth regions"
_BORDER = 5  # pixels


class Method(NamedTuple):
    """A way from CAMs to labels: what votes, over which proposals, and the margin, None for an upper bound."""

    source: str
    kind: str = ""
    size: str = ""
    margin: float | None = None


CRF = Method("CRF")


def superpixels(kind: str, pixels: Labels) -> list[Segments]:
    """Three sizes, from coarse to fine: (H, W) each, numbered from 0."""
    from skimage.color import rgb2gray
    from skimage.filters import gaussian, sobel
    from skimage.segmentation import felzenszwalb, slic, watershed

    if kind == "SLIC":
        made = [slic(pixels, n_segments=count) for count in (30, 100, 300)]
    elif kind == "Felzenszwalb":
        made = [felzenszwalb(pixels, scale=scale, sigma=0.8, min_size=50) for scale in (1000, 300, 100)]
    else:
        relief = sobel(gaussian(rgb2gray(pixels), 1))
        made = [watershed(relief, markers=count) for count in (30, 100, 300)]
    return [numbered(segments) for segments in made]


def numbered(segments: npt.NDArray[np.integer]) -> Segments:
    """The segments, numbered from 0 without gaps."""
    return np.unique(segments, return_inverse=True)[1].reshape(segments.shape)


def means(maps: npt.NDArray[np.floating], segments: Segments) -> Floats:
    """The mean of each map over each segment: (K, S)."""
    flat = segments.ravel()
    return np.stack([np.bincount(flat, own.ravel()) / np.bincount(flat) for own in maps]).astype(np.float32)


def voted(posterior: Floats, proposals: Sequence[Segments]) -> tuple[Floats, Floats]:
    """The vote and its margin at each pixel, (K, H, W) and (H, W); of several proposals, the greater margin wins."""
    vote, margin = np.zeros_like(posterior), np.full(posterior.shape[1:], -1, np.float32)
    for segments in proposals:
        own = means(posterior, segments)
        second, first = np.sort(np.vstack([np.zeros_like(own[:1]), own]), 0)[-2:]
        wins = margin < (first - second)[segments]
        margin = np.where(wins, (first - second)[segments], margin)
        vote = np.where(wins, own[:, segments], vote)
    return vote, margin


def filled(truth: Labels) -> Labels:
    """Ignored pixels take the label of the nearest other pixel."""
    near = distance_transform_edt(truth == IGNORED, return_distances=False, return_indices=True)
    return truth[tuple(near)]


class Trial:
    """The labels of an image by each method, and what the vote of the CRF changes for each kind of proposals."""

    def __init__(self, image: Path, cam_file: Path, truth: Labels, kinds: Sequence[str]) -> None:
        cam, pixels, settings = read_cam(cam_file), read_image(image), RefineSettings()
        self.truth, self.ids, self._settings = truth, cam.ids.astype(np.uint8), settings
        self._image = torch.from_numpy(pixels)
        self._kernels = crf_kernels(self._image, settings.crf, self._image.device)
        maps = full_resolution(cam) ** settings.crf_power
        self._cams: Floats = maps / maps.sum(0).clip(1e-8)
        self._crf = self._refined(self._cams)
        self.labels = {Method("CAM"): self.ids[self._cams.argmax(0)], CRF: self.ids[self._crf.argmax(0)]}
        whole = filled(truth)
        self.known = truth != IGNORED
        self.wrong = self.known & (self.labels[CRF] != truth)
        size = 2 * _BORDER + 1
        self.near = self.wrong & (maximum_filter(whole, size) != minimum_filter(whole, size))
        self.changes: dict[tuple[str, str], tuple[int, ...]] = {}
        pieces = [label(whole == id_, np.ones((3, 3)))[0] * 256 + id_ for id_ in np.unique(whole).tolist()]
        regions = numbered(np.choose(np.searchsorted(np.unique(whole), whole), pieces))
        self._measure(REGIONS, "", [regions])
        for kind in kinds:
            made = dict(zip(SIZES, superpixels(kind, pixels), strict=True))
            for name, segments in made.items():
                self._measure(kind, name, [segments])
                cut = numbered(regions * (segments.max() + 1) + segments)
                self._vote(f"{kind}, cut at true borders", name, [cut])
                votes = voted(self._cams, [segments])
                for margin in (0.0, 0.2):
                    blend = np.where(votes[1] >= margin, votes[0], self._cams)
                    self.labels[Method("vote, then CRF", kind, name, margin)] = self.ids[self._refined(blend).argmax(0)]
            self._vote(kind, "coarse and fine", [made["coarse"], made["fine"]])
            self._vote(kind, "coarse and medium", [made["coarse"], made["medium"]])

    def _refined(self, probabilities: Floats) -> Floats:
        given = torch.from_numpy(probabilities)
        return dense_crf(self._image, given, self._settings.crf, kernels=self._kernels).numpy()

    def _vote(self, kind: str, size: str, proposals: Sequence[Segments]) -> None:
        for source, posterior in (("vote of CAMs", self._cams), ("vote of CRF", self._crf)):
            votes, margins = voted(posterior, proposals)
            labels = self.ids[votes.argmax(0)]
            for margin in MARGINS:
                self.labels[Method(source, kind, size, margin)] = np.where(margins >= margin, labels, self.labels[CRF])

    def _measure(self, kind: str, size: str, proposals: Sequence[Segments]) -> None:
        """The votes, and two upper bounds: the best label of each segment, and the better of CRF and its vote."""
        self._vote(kind, size, proposals)
        (segments,) = proposals
        crf, vote = self.labels[CRF], self.labels[Method("vote of CRF", kind, size, 0.0)]
        best = self.ids[means((self.truth == self.ids[:, None, None]).astype(float), segments).argmax(0)][segments]
        hits = means(np.stack([crf == self.truth, vote == self.truth]).astype(float), segments)
        self.labels[Method("best label", kind, size)] = best
        self.labels[Method("better one", kind, size)] = np.where((hits[1] > hits[0])[segments], vote, crf)
        right, majority = vote == self.truth, vote != best
        shares = (self.wrong & right, self.known & ~self.wrong & ~right, self.wrong & majority)
        self.changes[kind, size] = (int(segments.max()) + 1, *(int(share.sum()) for share in shares))


def report(counts: dict[Method, Counts], ids: Sequence[int]) -> None:
    """Each source and kind with the size and margin that are best on the first half, on the second half."""
    gains = {method: _miou(own[::2], ids) - _miou(counts[CRF][::2], ids) for method, own in counts.items()}
    best: dict[tuple[str, str], Method] = {}
    for method in sorted(counts, key=lambda method: gains[method]):
        if method.margin is not None or not method.kind:
            best[method.source, method.kind] = method
    print("| labels | proposals | margin | gain, choosing | mIoU, reporting | minus CRF |\n|---|---|---|---|---|---|")
    for method in sorted(best.values(), key=lambda method: (method.kind, method.source)):
        print(
            f"| {method.source} | {method.kind} {method.size} | {method.margin} | {_row(method, counts, ids, gains)} |"
        )
    bounds = [method for method in counts if method.margin is None and method.kind]
    print("\n| upper bound | proposals | gain, choosing | mIoU, reporting | minus CRF |\n|---|---|---|---|---|")
    for method in bounds:
        print(f"| {method.source} | {method.kind} {method.size} | {_row(method, counts, ids, gains)} |")


def _miou(counts: Counts, ids: Sequence[int]) -> float:
    return float(miou(counts.sum(0).astype(np.float64), ids))


def _row(method: Method, counts: dict[Method, Counts], ids: Sequence[int], gains: dict[Method, float]) -> str:
    own = counts[method][1::2]
    return f"{gains[method]:.1f} | {estimate([own], ids)} | {paired([own], [counts[CRF][1::2]], ids)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--split", default="train")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--kinds", default="SLIC,Felzenszwalb,watershed")
    options = parser.parse_args()
    config, images = open_run(options.run, options.split)
    items = [item for item in images.items if item.truth is not None][:: options.every]
    counts: dict[Method, list[Counts]] = defaultdict(list)
    changes: dict[tuple[str, str], list[tuple[int, ...]]] = defaultdict(list)
    pixels = np.zeros(3)
    for item in items:
        truth = read_mask(item.truth)
        trial = Trial(item.path, options.run / f"cams/pot/{item.id}.npz", truth, options.kinds.split(","))
        for method, labels in trial.labels.items():
            counts[method].append(counts_of(labels, truth, len(images.classes)))
        for proposals, row in trial.changes.items():
            changes[proposals].append(row)
        pixels += [trial.known.sum(), trial.wrong.sum(), trial.near.sum()]
    print(f"{len(items)} images; of the pixels, in %: wrong after the CRF {100 * pixels[1] / pixels[0]:.1f}, ", end="")
    print(f"at most {_BORDER} px from a true border {100 * pixels[2] / pixels[0]:.1f}\n")
    ids = class_ids(config.evaluate.class_names(), images.classes) or range(len(images.classes) + 1)
    report({method: np.stack(own) for method, own in counts.items()}, ids)
    print("\n| proposals | per image | corrected, % | spoiled, % | wrong by majority, % |\n|---|---|---|---|---|")
    for proposals, rows in changes.items():
        number, *shares = np.sum(rows, 0)
        print(f"| {' '.join(proposals)} | {number / len(items):.0f} | ", end="")
        print(" | ".join(f"{100 * share / pixels[0]:.1f}" for share in shares), "|")


if __name__ == "__main__":
    main()
