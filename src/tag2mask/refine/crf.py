"""Dense CRF: labels that agree with each pixel's probabilities, with near pixels, and with pixels of like colour.

Mean field inference in the fully connected model of Krähenbühl and Koltun (2011) with Potts compatibility:

    Q ← softmax(log p + Σ over kernels of w · D^-½ K D^-½ Q),    D = diag(K 1)

with K a Gaussian of position, and one of position and colour, both by the permutohedral lattice.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import ClassVar, Literal, NamedTuple, overload

import torch
from torch import Tensor

from tag2mask.errors import UsageError
from tag2mask.fields import Checked, Fixed, setting
from tag2mask.refine.permutohedral import Lattice, build_lattice

CrfPreset = Literal["deeplab", "irn", "largefov"]

_LEAST = 1e-5
"""Probabilities below this count as this. Source: the usual unary of pydensecrf."""

_VECTOR = 16
"""From so many labels on, torch's softmax over rows is the faster one on CPUs; below, the plain formula."""


_LOWEST = -60.0
"""Log ratios below this count as this: numbers that float32 holds in reduced precision are slow on CPUs."""


_KEPT_PIXELS = 1 << 19
"""The lattice of positions of a photograph with more pixels is not kept for the next: 108 bytes a pixel."""

_GPU_PIXELS = 1 << 22
"""Pixels that a GPU gets at once, where one photograph does not have more."""


class CrfValues(NamedTuple):
    """The numbers of a dense CRF.

    Attributes:
        iterations: mean field steps.
        gaussian_sxy: standard deviation of position in the first kernel, pixels.
        gaussian_weight: w of the first kernel.
        bilateral_sxy: standard deviation of position in the second kernel, pixels.
        bilateral_srgb: standard deviation of colour in the second kernel, of 255.
        bilateral_weight: w of the second kernel.
    """

    iterations: int
    gaussian_sxy: float
    gaussian_weight: float
    bilateral_sxy: float
    bilateral_srgb: float
    bilateral_weight: float


PUBLISHED: dict[CrfPreset, CrfValues] = {
    "deeplab": CrfValues(10, 1, 3, 67, 3, 4),
    "irn": CrfValues(10, 3, 3, 50, 5, 10),
    "largefov": CrfValues(1, 3, 3, 32, 13, 10),
}
"""The published parameter sets.

`deeplab` is that of DeepLab's test, CLIP-ES and most others; `irn` that of IRN, SIPE and POT for the labels that IRN
learns from; `largefov` that of the DeepLab-LargeFOV on WideResNet-38.
"""


@dataclass
class PublishedCrf(Checked):
    """A published set of numbers.

    Attributes:
        preset: `deeplab`, `irn` or `largefov`.
    """

    preset: CrfPreset = "deeplab"
    iterations = Fixed[int | None](None)
    gaussian_sxy = Fixed[float | None](None)
    gaussian_weight = Fixed[float | None](None)
    bilateral_sxy = Fixed[float | None](None)
    bilateral_srgb = Fixed[float | None](None)
    bilateral_weight = Fixed[float | None](None)

    _section: ClassVar[str] = "the dense CRF"

    def values(self) -> CrfValues:
        """The numbers: the preset's where there is no other."""
        given = {name: getattr(self, name) for name in CrfValues._fields}
        return PUBLISHED[self.preset]._replace(**{name: value for name, value in given.items() if value is not None})


@dataclass
class ColourCrf(PublishedCrf):
    """The same with another sensitivity to colour, for images of more or less contrast.

    Attributes:
        bilateral_srgb: how like the colours of pixels are that agree, of 255, above 0; null takes the preset's.
    """

    bilateral_srgb: float | None = setting(None, above=0, null="null takes the preset's")


@dataclass
class CrfSettings(ColourCrf):
    """The same where every number may differ.

    Attributes:
        iterations: mean field steps, at least 0; null takes the preset's, as for all that follow.
        gaussian_sxy: pixels over which near pixels agree, above 0.
        gaussian_weight: how much they do, not negative.
        bilateral_sxy: pixels over which pixels of like colour agree, above 0.
        bilateral_weight: how much they agree, not negative.
    """

    iterations: int | None = setting(None, low=0)
    gaussian_sxy: float | None = setting(None, above=0)
    gaussian_weight: float | None = setting(None, low=0)
    bilateral_sxy: float | None = setting(None, above=0)
    bilateral_weight: float | None = setting(None, low=0)


@overload
def dense_crf(image: Tensor, probabilities: Tensor, settings: PublishedCrf = ...) -> Tensor: ...


@overload
def dense_crf(
    image: Sequence[Tensor], probabilities: Sequence[Tensor], settings: PublishedCrf = ...
) -> list[Tensor]: ...


@torch.no_grad()
def dense_crf(
    image: Tensor | Sequence[Tensor], probabilities: Tensor | Sequence[Tensor], settings: PublishedCrf | None = None
) -> Tensor | list[Tensor]:
    """The marginals Q of a dense CRF after its mean field steps; no gradient goes through them.

    Args:
        image: uint8 (H, W, 3), RGB; or a list of such, of any sizes.
        probabilities: float (K, H, W), not negative, of the labels that may occur; brought to sum 1 at each pixel (all
            zero: even), on the device that is to do the work. A list with a list, each with its own K ≥ 1.
        settings: of the model; `deeplab` if not given.

    Returns:
        float32 (K, H, W), summing to 1 at each pixel; a list for a list. On a GPU several photographs are done at once;
        elsewhere one tensor that stands in the list several times in succession is the less work.

    Raises:
        UsageError: shapes or types that do not fit, or probabilities that are negative or not finite.
    Source: Krähenbühl and Koltun, 2011; symmetric normalisation and unaries as in their public implementation.
    """
    values = (settings or PublishedCrf()).values()
    if isinstance(image, Tensor) and isinstance(probabilities, Tensor):
        return _mean_field([image], [_unary(image, probabilities)], values)[0]
    if isinstance(image, Tensor) or isinstance(probabilities, Tensor) or len(image) != len(probabilities):
        raise UsageError("image and probabilities should both be tensors, or lists of the same length")
    images, unaries = list(image), [_unary(*pair) for pair in zip(image, probabilities, strict=True)]
    found: list[Tensor] = []
    lattice, key = None, None
    for part in _parts(images, unaries):
        device = unaries[part][0].device
        if key != (device, *map(id, images[part])):
            lattice = None  # the old one goes before there is a new one
            lattice = _bilateral(images[part], values, device) if values.iterations else None
            key = (device, *map(id, images[part]))
        found += _mean_field(images[part], unaries[part], values, lattice)
    return found


def _parts(images: Sequence[Tensor], unaries: Sequence[Tensor]) -> list[slice]:
    """What is done at once: one photograph, which stays within a CPU's caches; on a GPU as many as it should hold."""
    most = _GPU_PIXELS if unaries and unaries[0].is_cuda else 0
    ends, pixels = [0], 0
    for number, image in enumerate(images):
        pixels += image.shape[0] * image.shape[1]
        if number and pixels > most:
            ends.append(number)
            pixels = image.shape[0] * image.shape[1]
    return [slice(*pair) for pair in pairwise([*ends, len(images)])] if images else []


def label_probabilities(labels: Tensor, count: int, confidence: float = 0.7) -> Tensor:
    """Probabilities of labels that may err: ``confidence`` for a pixel's label, the rest shared by the others.

    Args:
        labels: integer (H, W), each in [0, count).
        count: how many labels there are, K.
        confidence: in (0, 1]; 0.7 in IRN.

    Returns:
        float32 (K, H, W), summing to 1 at each pixel.

    Raises:
        UsageError: a label or the confidence is out of range.
    Source: the label unary of pydensecrf without an unsure label; IRN.
    """
    if not 0 < confidence <= 1:
        raise UsageError(f"the confidence of labels should lie in (0, 1], received {confidence}")
    if labels.ndim != 2 or count < 1 or bool(((labels < 0) | (labels >= count)).any()):
        raise UsageError(f"labels should be (H, W) with values from 0 to {count - 1}, received {tuple(labels.shape)}")
    if count == 1:
        return torch.ones(1, *labels.shape, device=labels.device)
    own = labels == torch.arange(count, device=labels.device)[:, None, None]  # (K, H, W)
    return torch.where(own, confidence, (1 - confidence) / (count - 1)).float()


def _unary(image: Tensor, probabilities: Tensor) -> Tensor:
    """log p as (H · W, K), after a look at what was given."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != torch.uint8:
        raise UsageError(f"image should be uint8 (H, W, 3), received {image.dtype} {tuple(image.shape)}")
    if probabilities.ndim != 3 or not len(probabilities) or probabilities.shape[1:] != image.shape[:2]:
        raise UsageError(
            f"probabilities should be (K, H, W) of the image's {image.shape[0]} × {image.shape[1]} pixels, "
            f"received {tuple(probabilities.shape)}"
        )
    if not image.numel():
        raise UsageError("image has no pixel")
    p = probabilities.float()
    if not bool(p.isfinite().all()) or bool((p < 0).any()):
        raise UsageError("probabilities should be finite and not negative")
    p = p / p.sum(0).clamp_min(torch.finfo(p.dtype).tiny)
    return p.clamp_min(_LEAST).log().flatten(1).T.contiguous()


def _mean_field(
    images: Sequence[Tensor], unaries: Sequence[Tensor], values: CrfValues, bilateral: Lattice | None = None
) -> list[Tensor]:
    """The marginals of photographs, all at once; ``bilateral`` is their kernel of position and colour, if known."""
    device, most = unaries[0].device, max(unary.shape[1] for unary in unaries)
    # Labels that a photograph does not have are impossible there.
    unary = torch.cat([torch.nn.functional.pad(u, (0, most - u.shape[1]), value=-torch.inf) for u in unaries])
    q = _softmax(unary)  # (n, K)
    if values.iterations:
        bilateral = bilateral or _bilateral(images, values, device)
        grids = [_spatial(image.shape[0], image.shape[1], values.gaussian_sxy, device) for image in images]
        pixels = [image.shape[0] * image.shape[1] for image in images]
    for _ in range(values.iterations):
        near = torch.cat([grid.filter(part) for grid, part in zip(grids, torch.split(q, pixels), strict=True)])
        alike = bilateral.filter(q)  # type: ignore[union-attr]
        q = _softmax(unary.add(near, alpha=values.gaussian_weight).add_(alike, alpha=values.bilateral_weight))
    parts = torch.split(q, [len(each) for each in unaries])
    return [
        part[:, : each.shape[1]].T.reshape(-1, *image.shape[:2])
        for part, each, image in zip(parts, unaries, images, strict=True)
    ]


def _bilateral(images: Sequence[Tensor], values: CrfValues, device: torch.device) -> Lattice:
    """The kernel of position and colour, over all photographs but never from one to another."""
    points = []
    for image in images:
        colours = image.to(device).reshape(-1, 3).float() / values.bilateral_srgb
        points.append(
            torch.cat([_positions(image.shape[0], image.shape[1], device) / values.bilateral_sxy, colours], 1)
        )
    owners = None
    if len(images) > 1:
        lengths = torch.tensor([len(each) for each in points], device=device)
        owners = torch.arange(len(images), device=device).repeat_interleave(lengths)
    return _normalised(build_lattice(torch.cat(points), owners))


def _spatial(height: int, width: int, sxy: float, device: torch.device) -> Lattice:
    """The kernel of position."""
    make = _kept_spatial if height * width <= _KEPT_PIXELS else _kept_spatial.__wrapped__
    return make(height, width, sxy, device)


@lru_cache(maxsize=4)
def _kept_spatial(height: int, width: int, sxy: float, device: torch.device) -> Lattice:
    """The same, kept: photographs share few sizes."""
    return _normalised(build_lattice(_positions(height, width, device) / sxy))


def _positions(height: int, width: int, device: torch.device) -> Tensor:
    """(height · width, 2), row after row."""
    rows = torch.arange(height, dtype=torch.float32, device=device)
    columns = torch.arange(width, dtype=torch.float32, device=device)
    return torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1).reshape(-1, 2)


def _normalised(lattice: Lattice) -> Lattice:
    """D^-½ K D^-½."""
    ones = torch.ones(len(lattice.corners), 1, device=lattice.weights.device)
    return lattice.scaled((lattice.filter(ones).squeeze(1) + 1e-20).rsqrt())


def _softmax(logits: Tensor) -> Tensor:
    """Over the labels, (n, K)."""
    if logits.is_cuda:
        return logits.softmax(1)
    shifted = (logits - logits.amax(1, keepdim=True)).clamp_(min=_LOWEST)
    if logits.shape[1] >= _VECTOR:
        return shifted.softmax(1)
    return shifted.exp_().div_(shifted.sum(1, keepdim=True))
