"""Masks of images from a trained segmentation network: ``tag2mask.load(path).predict(image)``."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from tag2mask.core.device import channels_last, resolve_device
from tag2mask.core.errors import UsageError
from tag2mask.data.images import PIXEL_LIMIT, read_image, reduced
from tag2mask.data.pixel_formats import Intensity, deep_kind, read_rgb
from tag2mask.networks.checkpoint import load_segmentation_network
from tag2mask.networks.segmentation import SegmentationNetwork
from tag2mask.prediction.multiscale import Block, Grid, mean_logits, sampled
from tag2mask.prediction.settings import PredictSettings
from tag2mask.prediction.tiles import cut
from tag2mask.refine.crf import dense_crf

__all__ = ["PROBABILITY_LIMIT", "Prediction", "Predictor", "load", "load_segmenter"]

SEGMENT_NETWORK = "segment/network.safetensors"
"""Path of the segmentation network in a run folder."""

PROBABILITY_LIMIT = 1 << 28
"""Most values that `Predictor.probabilities` returns: 1 GiB."""

_HOPELESS = 1e-3
"""Classes with a lower probability everywhere are left out of the CRF; ours."""

ImageItem = Path | str | Image.Image | npt.NDArray[np.uint8]
"""A path, a Pillow image, or uint8 (H, W, 3) RGB or (H, W) grey."""


@dataclass(frozen=True)
class Prediction:
    """The prediction for an image.

    Attributes:
        labels: uint8 (H, W): 0 background, 1..C the classes.
        pixels: int64 (C + 1,), the number of pixels of each label.
        class_confidence: float64 (C + 1,) in [0, 1], the mean probability of a label over its pixels; 0 without any.
    """

    labels: npt.NDArray[np.uint8]
    pixels: npt.NDArray[np.int64]
    class_confidence: npt.NDArray[np.float64]

    @property
    def shares(self) -> npt.NDArray[np.float64]:
        """float64 (C + 1,): the share of the pixels of each label; they sum to 1."""
        return self.pixels / self.labels.size

    @property
    def confidence(self) -> float:
        """The mean probability of the label over all pixels, in [0, 1]."""
        return float(self.pixels @ self.class_confidence / self.labels.size)


class Predictor:
    """A segmentation network that labels images of any size.

    Logits of all classes exist at full size for one block at a time.

    Args:
        network: is put into evaluation mode, on the device.
        device: `auto` takes the GPU if there is one; `cpu`; `cuda`.
        settings: scales, mirror images, tiles, CRF; by default one pass at scale 1.
        pixel_limit: files with more pixels are refused before they are decoded.
        intensity: of images of more than 8 bits, the values that become black and white; None: those of the network's
            training.

    Attributes:
        classes: C names, without background; class id = index + 1.

    Raises:
        UsageError: `cuda` where there is none.
    """

    def __init__(
        self,
        network: SegmentationNetwork,
        device: str = "auto",
        settings: PredictSettings | None = None,
        *,
        pixel_limit: int = PIXEL_LIMIT,
        intensity: Intensity | None = None,
    ) -> None:
        """Move the network to the device."""
        self.intensity: Intensity | None = intensity or network.intensity
        self.network, self.settings, self.pixel_limit = network, settings or PredictSettings(), pixel_limit
        self.device = resolve_device(device)
        channels_last(network).to(self.device).eval()
        self.classes = network.classes

    def predict(self, image: ImageItem) -> npt.NDArray[np.uint8]:
        """The mask of an image.

        Args:
            image: a path, a Pillow image, or uint8 (H, W, 3) RGB or (H, W) grey. The EXIF orientation of a path or a
                Pillow image is applied. Where `intensity` applies, 16-bit colour needs a path: Pillow keeps 8 bits.

        Returns:
            uint8 (H, W): 0 background, 1..C the classes.

        Raises:
            ImageError: the file cannot be used.
            UsageError: ``image`` is of another type.
        """
        return self.prediction(image).labels

    def prediction(self, image: ImageItem) -> Prediction:
        """The mask of an image with the share and the confidence of each class; as `predict`."""
        return self.predictions([image])[0]

    def predictions(self, images: Sequence[ImageItem]) -> list[Prediction]:
        """The predictions for several images; those of one size go through the network together. As `predict`."""
        arrays = [self._array(image) for image in images]
        by_size: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for number, array in enumerate(arrays):
            by_size[array.shape[:2]].append(number)
        found: dict[int, Prediction] = {}
        for numbers in by_size.values():
            same = self._same_size([arrays[number] for number in numbers])
            found.update(zip(numbers, same, strict=True))
        return [found[number] for number in range(len(arrays))]

    def probabilities(self, image: ImageItem) -> npt.NDArray[np.float32]:
        """The probability of every class at every pixel: the softmax of the mean logits, after the CRF if there is one.

        Returns:
            float32 (C + 1, H, W) in [0, 1], background first; sums to 1 at each pixel.

        Raises:
            ImageError: as `predict`.
            UsageError: as `predict`, or the result would have more than `PROBABILITY_LIMIT` values.
        """
        array = self._array(image)
        height, width = array.shape[:2]
        count = len(self.classes) + 1
        if count * height * width > PROBABILITY_LIMIT:
            raise UsageError(
                f"probabilities of {count} classes at {width} × {height} pixels would be {count * height * width:,} "
                f"numbers, at most {PROBABILITY_LIMIT:,} are given; reduce the image, or take `predict`"
            )
        result = np.zeros((count, height, width), dtype=np.float32)
        for block in self._blocks([array]):
            result[:, block.rows, block.columns] = block.logits.softmax(0).cpu().numpy()
        return result

    def reduced_logits(self, image: ImageItem, size: tuple[int, int]) -> Tensor:
        """The mean logits of an image, resampled to (h, w) = ``size``, without CRF.

        Returns:
            float32 (C + 1, h, w) on the CPU, background first.
        """
        result = torch.empty(len(self.classes) + 1, *size)
        for block in mean_logits(
            self.network, [torch.from_numpy(self._array(image))], self.settings, self.device, size
        ):
            result[:, block.rows, block.columns] = block.logits.cpu()
        return result

    def _array(self, image: ImageItem) -> npt.NDArray[np.uint8]:
        """RGB, uint8 (H, W, 3)."""
        if isinstance(image, str | Path):
            return read_image(Path(image), pixel_limit=self.pixel_limit, intensity=self.intensity)
        if isinstance(image, Image.Image):
            name = Path(str(getattr(image, "filename", "") or "the image"))
            if self.intensity is not None and deep_kind(image) == "colour":
                raise UsageError(f"{name} has 16-bit colour, of which Pillow keeps 8 bits; give its path instead")
            return read_rgb(name, image, self.intensity)
        if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.size:
            if image.ndim == 2:
                return np.repeat(image[..., None], 3, axis=2)
            if image.ndim == 3 and image.shape[2] == 3:
                # torch does not support negative strides, and warns of read-only arrays
                return np.require(image, requirements=["C", "W"])
        given = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise UsageError(f"an image should be a path, a Pillow image, or uint8 (H, W, 3) or (H, W), received {given}")

    def _same_size(self, images: Sequence[npt.NDArray[np.uint8]]) -> list[Prediction]:
        count = len(self.classes) + 1
        labels = [np.empty(image.shape[:2], dtype=np.uint8) for image in images]
        pixels = torch.zeros(len(images), count, dtype=torch.int64)
        sure = torch.zeros(len(images), count, dtype=torch.float64)
        for block in self._blocks(images):
            highest, label = block.logits.max(0)
            probability = (highest - block.logits.logsumexp(0)).exp()
            labels[block.item][block.rows, block.columns] = label.byte().cpu().numpy()
            flat = label.flatten()
            pixels[block.item] += flat.bincount(minlength=count).cpu()
            sure[block.item] += flat.bincount(probability.flatten().double(), minlength=count).cpu()
        means = sure / pixels.clamp_min(1)
        return [
            Prediction(mask, own.numpy(), mean.numpy()) for mask, own, mean in zip(labels, pixels, means, strict=True)
        ]

    def _blocks(self, images: Sequence[npt.NDArray[np.uint8]]) -> Iterator[Block]:
        """Final logits of images of one size, block by block; after a CRF the logarithms of its probabilities."""
        tensors = [torch.from_numpy(image) for image in images]
        if not self.settings.crf:
            yield from mean_logits(self.network, tensors, self.settings, self.device)
            return
        small = [
            torch.from_numpy(np.ascontiguousarray(reduced(image, self.settings.crf_long_side))) for image in images
        ]
        size = (int(small[0].shape[0]), int(small[0].shape[1]))
        given = torch.empty(len(images), len(self.classes) + 1, *size)
        for block in mean_logits(self.network, tensors, self.settings, self.device, size):
            given[block.item, :, block.rows, block.columns] = block.logits.softmax(0)
        for number, (image, own) in enumerate(zip(small, given, strict=True)):
            refined = self._refined(image, own.to(self.device))
            height, width = images[number].shape[:2]
            yield from _enlarged(number, refined, (height, width))

    def _refined(self, image: Tensor, probabilities: Tensor) -> Tensor:
        """(C + 1, h, w) after the CRF; 0 for classes that are left out of it."""
        kept = probabilities.flatten(1).amax(1) >= _HOPELESS
        refined = torch.zeros_like(probabilities)
        refined[kept] = dense_crf(image.to(self.device), probabilities[kept], self.settings.crf_settings)
        return refined


def load(
    path: Path | str,
    device: str = "auto",
    settings: PredictSettings | None = None,
    *,
    pixel_limit: int = PIXEL_LIMIT,
    intensity: Intensity | None = None,
) -> Predictor:
    """A predictor from the checkpoint of a segmentation network. No code in the file is run, nothing is downloaded.

    Args:
        path: a `.safetensors` file, or the folder of a run that trained one; other arguments as of `Predictor`.

    Raises:
        NetworkFileError: the file is missing, damaged, or holds something else.
        UsageError: `cuda` where there is none.
    """
    network = load_segmenter(network_file(Path(path)))
    return Predictor(network, device, settings, pixel_limit=pixel_limit, intensity=intensity)


def network_file(path: Path) -> Path:
    """The checkpoint at ``path``, a file or a run folder."""
    return path / SEGMENT_NETWORK if path.is_dir() else path


def require_network_file(path: Path) -> Path:
    """The checkpoint that a path means, which is there.

    Raises:
        UsageError: it is not.
    """
    file = network_file(path)
    if file.is_file():
        return file
    if (path / "config.yaml").is_file():
        raise UsageError(f"{file} does not exist; `tag2mask segment {path}` trains the network")
    raise UsageError(f"{file} does not exist; give a run with a segmentation network, or its .safetensors file")


def load_segmenter(path: Path) -> SegmentationNetwork:
    """The segmentation network in a checkpoint; as `tag2mask.networks.load_segmentation_network`."""
    return load_segmentation_network(path)


def _enlarged(item: int, probabilities: Tensor, size: tuple[int, int]) -> Iterator[Block]:
    """Probabilities (K, h, w) at (H, W), block by block, as logarithms; bilinear."""
    cells = (probabilities.shape[1] / size[0], probabilities.shape[2] / size[1])
    rows, columns = (cut(side, side, side=None, overlap=0, blend=0).pieces for side in size)
    for down in rows:
        for across in columns:
            centres = [
                torch.arange(piece.start, piece.stop, dtype=torch.float64, device=probabilities.device) + 0.5
                for piece in (down, across)
            ]
            values = sampled([Grid(probabilities, cells)], *centres)
            logits = values.clamp_min(torch.finfo(values.dtype).tiny).log()
            yield Block(item, slice(down.start, down.stop), slice(across.start, across.stop), logits)
