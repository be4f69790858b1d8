"""Dense CRF: labels from each pixel's probabilities, smoothed over near pixels and over pixels of similar colour.

Mean field inference in the fully connected model of Krähenbühl and Koltun (2011) with Potts compatibility:

    Q ← softmax(log p + Σ over kernels of w · D^-½ K D^-½ Q),    D = diag(K 1)

with K a Gaussian of position, and one of position and colour, both by the permutohedral lattice.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from tag2mask.core.errors import UsageError
from tag2mask.core.fields import Checked, setting
from tag2mask.refine.permutohedral import Lattice, build_lattice

CrfPreset = Literal["deeplab", "irn", "largefov"]

_LEAST = 1e-5
"""Lower bound on probabilities. Source: the usual unary of pydensecrf."""

_LOWEST = -60.0
"""Lower bound on log ratios: subnormal numbers are slow on CPUs."""

_KEPT_PIXELS = 1 << 19
"""Up to this size, the lattice of positions is cached, at 108 bytes per pixel."""


class CrfValues(NamedTuple):
    """The parameters of a dense CRF."""

    iterations: int  # mean field steps
    gaussian_sxy: float  # standard deviation of position in the first kernel, pixels
    gaussian_weight: float  # w of the first kernel
    bilateral_sxy: float  # standard deviation of position in the second kernel, pixels
    bilateral_srgb: float  # standard deviation of colour in the second kernel, of 255
    bilateral_weight: float  # w of the second kernel


PUBLISHED: dict[CrfPreset, CrfValues] = {
    "deeplab": CrfValues(10, 1, 3, 67, 3, 4),
    "irn": CrfValues(10, 3, 3, 50, 5, 10),
    "largefov": CrfValues(1, 3, 3, 32, 13, 10),
}
"""Published parameters: `deeplab` of DeepLab's test, CLIP-ES and most others; `irn` of IRN, SIPE and POT for the
training labels of IRN; `largefov` of DeepLab-LargeFOV on WideResNet-38."""


@dataclass
class PublishedCrf(Checked):
    """A published parameter set.

    Attributes:
        preset: `deeplab`, `irn` or `largefov`.
    """

    preset: CrfPreset = "deeplab"

    _section: ClassVar[str] = "the dense CRF"

    def values(self) -> CrfValues:
        """The numbers: the preset's where there is no other."""
        given = {name: getattr(self, name, None) for name in CrfValues._fields}
        return PUBLISHED[self.preset]._replace(**{name: value for name, value in given.items() if value is not None})


@dataclass
class ColourCrf(PublishedCrf):
    """A published parameter set with another sensitivity to colour, for images of more or less contrast.

    Attributes:
        bilateral_srgb: standard deviation of colour in the second kernel, of 255, above 0; null takes the preset's.
    """

    bilateral_srgb: float | None = setting(None, above=0, null="null takes the preset's")


@dataclass
class CrfSettings(ColourCrf):
    """A published parameter set with replaceable parameters; see `CrfValues`.

    Attributes:
        iterations: mean field steps, at least 0; null takes the preset's, as for the following ones.
        gaussian_sxy: standard deviation of position in the first kernel, pixels, above 0.
        gaussian_weight: weight of the first kernel, not negative.
        bilateral_sxy: standard deviation of position in the second kernel, pixels, above 0.
        bilateral_weight: weight of the second kernel, not negative.
    """

    iterations: int | None = setting(None, low=0)
    gaussian_sxy: float | None = setting(None, above=0)
    gaussian_weight: float | None = setting(None, low=0)
    bilateral_sxy: float | None = setting(None, above=0)
    bilateral_weight: float | None = setting(None, low=0)


class CrfKernels(NamedTuple):
    """The normalised kernels of an image: of position, and of position and colour."""

    spatial: Lattice
    bilateral: Lattice


@torch.no_grad()
def dense_crf(
    image: Tensor, probabilities: Tensor, settings: PublishedCrf | None = None, *, kernels: CrfKernels | None = None
) -> Tensor:
    """The marginals Q of a dense CRF after its mean field steps, without gradient.

    Args:
        image: uint8 (H, W, 3), RGB.
        probabilities: float (K, H, W), not negative, of the labels that may occur; normalised to sum 1 at each pixel
            (all zero: uniform). Their device computes.
        settings: `deeplab` by default.
        kernels: of `crf_kernels` for the image, to share them between calls; None computes them.

    Returns:
        float32 (K, H, W), summing to 1 at each pixel.

    Raises:
        UsageError: wrong shapes or types, or probabilities that are negative or not finite.
    Source: Krähenbühl and Koltun, 2011; symmetric normalisation and unaries as in their public implementation.
    """
    settings = settings or PublishedCrf()
    values = settings.values()
    unary = _unary(image, probabilities)
    q = _softmax(unary)  # (K, n)
    if values.iterations:
        spatial, bilateral = kernels or crf_kernels(image, settings, unary.device)
    for _ in range(values.iterations):
        near, alike = spatial.filter(q), bilateral.filter(q)
        q = _softmax(unary.add(near, alpha=values.gaussian_weight).add_(alike, alpha=values.bilateral_weight))
    return q.reshape(probabilities.shape)


@torch.no_grad()
def crf_kernels(image: Tensor, settings: PublishedCrf, device: torch.device) -> CrfKernels:
    """The kernels of a dense CRF over ``image``, uint8 (H, W, 3), on ``device``."""
    values, height, width = settings.values(), int(image.shape[0]), int(image.shape[1])
    make = _kept_spatial if height * width <= _KEPT_PIXELS else _kept_spatial.__wrapped__
    colours = image.to(device).reshape(-1, 3).float() / values.bilateral_srgb
    points = torch.cat([_positions(height, width, device) / values.bilateral_sxy, colours], 1)
    return CrfKernels(make(height, width, values.gaussian_sxy, device), _normalised(build_lattice(points)))


def label_probabilities(labels: Tensor, count: int, confidence: float = 0.7) -> Tensor:
    """Probabilities of uncertain labels: ``confidence`` for a pixel's label, the rest divided among the others.

    Args:
        labels: integer (H, W), each in [0, count).
        confidence: in (0, 1]; 0.7 in IRN.

    Returns:
        float32 (count, H, W), summing to 1 at each pixel.
    Source: pydensecrf's unary from labels, without an unsure label; IRN.
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
    """log p as (K, H · W), of checked arguments."""
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
    return p.clamp_min(_LEAST).log().flatten(1)


@lru_cache(maxsize=4)
def _kept_spatial(height: int, width: int, sxy: float, device: torch.device) -> Lattice:
    """The kernel of position, cached since images share few sizes."""
    return _normalised(build_lattice(_positions(height, width, device) / sxy))


def _positions(height: int, width: int, device: torch.device) -> Tensor:
    """(height · width, 2), row by row."""
    rows = torch.arange(height, dtype=torch.float32, device=device)
    columns = torch.arange(width, dtype=torch.float32, device=device)
    return torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1).reshape(-1, 2)


def _normalised(lattice: Lattice) -> Lattice:
    """D^-½ K D^-½."""
    ones = torch.ones(1, len(lattice.corners), device=lattice.weights.device)
    return lattice.scaled((lattice.filter(ones)[0] + 1e-20).rsqrt())


def _softmax(logits: Tensor) -> Tensor:
    """Over the labels, (K, n)."""
    shifted = (logits - logits.amax(0)).clamp_(min=_LOWEST).exp_()
    return shifted.div_(shifted.sum(0))
