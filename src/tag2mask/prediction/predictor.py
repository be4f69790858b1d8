"""Masks of images from a trained segmentation network: ``tag2mask.load(path).predict(image)``."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, product
from pathlib import Path
from typing import Any, cast, overload

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from tag2mask.core.device import channels_last, resolve_device
from tag2mask.core.errors import UsageError
from tag2mask.core.profile import timed
from tag2mask.data.dataset import find_images
from tag2mask.data.images import PIXEL_LIMIT, read_image, reduced
from tag2mask.data.pixel_formats import Intensity, deep_kind, read_rgb
from tag2mask.networks.checkpoint import load_segmentation_network
from tag2mask.prediction.multiscale import Block, LogitGrid, interpolate, mean_logits
from tag2mask.prediction.onnx_network import OnnxNetwork, PredictionNetwork
from tag2mask.prediction.settings import PredictSettings
from tag2mask.prediction.tiles import tile_axis
from tag2mask.refine.crf import dense_crf

SEGMENT_NETWORK = "segment/network.safetensors"
"""Path of the segmentation network in a run folder."""

PROBABILITY_LIMIT = 1 << 28
"""Most values that `Predictor.probabilities` returns: 1 GiB."""

_CRF_MIN_PROBABILITY = 1e-3
"""The CRF leaves out classes with a lower probability at every pixel; ours."""

ImageInput = Path | str | Image.Image | npt.NDArray[np.uint8]
"""A path, a Pillow image, or uint8 (H, W, 3) RGB or (H, W) grey."""


@dataclass(frozen=True)
class Prediction:
    """The prediction for an image.

    Attributes:
        labels: uint8 (H, W): 0 background, 1..C the classes.
        pixels: int64 (C + 1,), the number of pixels with each label.
        class_confidence: float64 (C + 1,) in [0, 1], the mean probability of a label over its pixels; 0 if it has none.

    Examples:
        >>> import tag2mask
        >>> found = tag2mask.load("runs/mine", device="cpu").prediction("images/train/0000.jpg")
        >>> round(float(found.shares.sum()), 6), 0 < found.confidence <= 1
        (1.0, True)
    """

    labels: npt.NDArray[np.uint8]
    pixels: npt.NDArray[np.int64]
    class_confidence: npt.NDArray[np.float64]

    @property
    def shares(self) -> npt.NDArray[np.float64]:
        """The share of the pixels with each label, float64 (C + 1,); they sum to 1."""
        return self.pixels / self.labels.size

    @property
    def confidence(self) -> float:
        """The mean probability of the label over all pixels, in [0, 1]."""
        return float(self.pixels @ self.class_confidence / self.labels.size)


class Predictor:
    """A segmentation network that labels images of any size.

    Args:
        network: is moved to the device and put into evaluation mode.
        device: `auto` takes the GPU if there is one and the network is not an `OnnxNetwork`; `cpu`; `cuda`.
        settings: by default one pass at scale 1; an `OnnxNetwork` computes in fp32 whatever they say.
        pixel_limit: files with more pixels are refused before they are decoded.
        intensity: the values that become black and white in images of more than 8 bits; None: as in training.

    Attributes:
        classes: C names, without background; class id = index + 1.

    Raises:
        UsageError: `cuda` where there is none, or for an `OnnxNetwork`.

    Examples:
        >>> import tag2mask
        >>> predictor = tag2mask.load("runs/mine", device="cpu")
        >>> predictor.classes
        ('dab', 'fen')
        >>> mask = predictor.predict("images/train/0000.jpg")
        >>> mask.dtype, mask.ndim
        (dtype('uint8'), 2)
        >>> len(predictor.predict("images/val")), sum(1 for mask in predictor.predict_iter([mask, mask]))
        (4, 2)
    """

    def __init__(
        self,
        network: PredictionNetwork,
        device: str = "auto",
        settings: PredictSettings | None = None,
        *,
        pixel_limit: int = PIXEL_LIMIT,
        intensity: Intensity | None = None,
    ) -> None:
        """Move the network to the device."""
        self.intensity = intensity or network.intensity
        self.network, self.settings, self.pixel_limit = network, settings or PredictSettings(), pixel_limit
        if isinstance(network, OnnxNetwork):
            if device == "cuda":
                raise UsageError(
                    "an .onnx network runs on the CPU; use --device cpu or auto, or the run or its .safetensors file"
                )
            device, self.settings = "cpu", replace(self.settings, precision="fp32")
        self.device = resolve_device(device)
        channels_last(network).to(self.device).eval()
        self.classes = network.classes

    @overload
    def predict(self, image: Image.Image | npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]: ...

    @overload
    def predict(self, image: Sequence[ImageInput]) -> list[npt.NDArray[np.uint8]]: ...

    @overload
    def predict(self, image: Path | str) -> Any: ...

    def predict(self, image: ImageInput | Sequence[ImageInput]) -> Any:
        """The mask of an image, of a list of images, or of all images in a folder.

        Args:
            image: a path, a Pillow image, or uint8 (H, W, 3) RGB or (H, W) grey. The EXIF orientation of a file or a
                Pillow image is applied. With `intensity`, 16-bit colour needs a path, since Pillow keeps 8 bits.

        Returns:
            uint8 (H, W): 0 background, 1..C the classes. For a list, a list of masks; for a folder,
            ``{image ID: mask}``. `predict_iter` keeps one batch in memory.

        Raises:
            ImageError: a file cannot be used.
            UsageError: ``image`` is of another type, or a folder without images.
        """
        if isinstance(image, Path | str) and Path(image).is_dir():
            items = find_images(Path(image)).items
            masks = self.predict_iter(item.path for item in items)
            return {item.id: mask for item, mask in zip(items, masks, strict=True)}
        if isinstance(image, list | tuple):
            return list(self.predict_iter(image))
        return self.prediction(cast("ImageInput", image)).labels

    def predict_iter(self, images: Iterable[ImageInput]) -> Iterator[npt.NDArray[np.uint8]]:
        """The masks of a stream of images, in order; images that follow each other go through the network together.

        Args:
            images: consumed `PredictSettings.batch_size` at a time; each as in `predict`.

        Raises:
            ImageError, UsageError: as `predict`; the masks of earlier batches have arrived by then.
        """
        stream = iter(images)
        while batch := list(islice(stream, self.settings.batch_size)):
            yield from (prediction.labels for prediction in self.predictions(batch))

    def prediction(self, image: ImageInput) -> Prediction:
        """As `predict`, with the pixels and the confidence of each class."""
        return self.predictions([image])[0]

    def predictions(self, images: Sequence[ImageInput]) -> list[Prediction]:
        """As `prediction`, for several images; images of one size form a batch."""
        arrays = [self._array(image) for image in images]
        by_size: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for number, array in enumerate(arrays):
            by_size[array.shape[:2]].append(number)
        found: dict[int, Prediction] = {}
        for numbers in by_size.values():
            same = self._same_size([arrays[number] for number in numbers])
            found.update(zip(numbers, same, strict=True))
        return [found[number] for number in range(len(arrays))]

    def probabilities(self, image: ImageInput) -> npt.NDArray[np.float32]:
        """The probability of every class at every pixel: the softmax of the mean logits, refined by the CRF if enabled.

        Returns:
            float32 (C + 1, H, W) in [0, 1], background first; sums to 1 at each pixel.

        Raises:
            ImageError: as in `predict`.
            UsageError: as in `predict`, or the result would have more than `PROBABILITY_LIMIT` values.
        """
        array = self._array(image)
        height, width = array.shape[:2]
        count = len(self.classes) + 1
        if count * height * width > PROBABILITY_LIMIT:
            raise UsageError(
                f"probabilities of {count} classes at {width} × {height} pixels would be {count * height * width:,} "
                f"numbers, at most {PROBABILITY_LIMIT:,} are allowed; reduce the image, or take `predict`"
            )
        result = np.zeros((count, height, width), dtype=np.float32)
        for block in self._blocks([array]):
            result[:, block.rows, block.columns] = block.logits.softmax(0).cpu().numpy()
        return result

    def reduced_logits(self, image: ImageInput, size: tuple[int, int]) -> Tensor:
        """The mean logits resampled to (h, w) = ``size``, without CRF, float32 (C + 1, h, w) on the CPU."""
        result = torch.empty(len(self.classes) + 1, *size)
        array = torch.from_numpy(self._array(image))
        for block in mean_logits(self.network, [array], self.settings, self.device, size):
            result[:, block.rows, block.columns] = block.logits.cpu()
        return result

    def _array(self, image: ImageInput) -> npt.NDArray[np.uint8]:
        """RGB, uint8 (H, W, 3)."""
        if isinstance(image, str | Path):
            return read_image(Path(image), pixel_limit=self.pixel_limit, intensity=self.intensity)
        if isinstance(image, Image.Image):
            name = Path(str(getattr(image, "filename", "") or "the image"))
            if self.intensity is not None and deep_kind(image) == "colour":
                raise UsageError(f"{name} has 16-bit colour, but Pillow keeps 8 bits; give its path instead")
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
        confidence = torch.zeros(len(images), count, dtype=torch.float64)  # summed over pixels
        for block in self._blocks(images):
            highest, label = block.logits.max(0)
            probability = (highest - block.logits.logsumexp(0)).exp()
            labels[block.index][block.rows, block.columns] = label.byte().cpu().numpy()
            flat = label.flatten()
            pixels[block.index] += flat.bincount(minlength=count).cpu()
            confidence[block.index] += flat.bincount(probability.flatten().double(), minlength=count).cpu()
        confidence /= pixels.clamp_min(1)
        return [Prediction(*each) for each in zip(labels, pixels.numpy(), confidence.numpy(), strict=True)]

    def _blocks(self, images: Sequence[npt.NDArray[np.uint8]]) -> Iterator[Block]:
        """Final logits of images of one size, block by block; with a CRF, the logarithms of its probabilities."""
        tensors = [torch.from_numpy(image) for image in images]
        if not self.settings.crf:
            yield from mean_logits(self.network, tensors, self.settings, self.device)
            return
        small = [np.ascontiguousarray(reduced(image, self.settings.crf_long_side)) for image in images]
        height, width = small[0].shape[:2]
        probabilities = torch.empty(len(images), len(self.classes) + 1, height, width)
        for block in mean_logits(self.network, tensors, self.settings, self.device, (height, width)):
            probabilities[block.index, :, block.rows, block.columns] = block.logits.softmax(0)
        full_height, full_width = images[0].shape[:2]
        for index, (image, own) in enumerate(zip(small, probabilities, strict=True)):
            refined = self._refine(torch.from_numpy(image), own.to(self.device))
            yield from _enlarge(index, refined, (full_height, full_width))

    @timed("method")
    def _refine(self, image: Tensor, probabilities: Tensor) -> Tensor:
        """Probabilities (C + 1, h, w) after the CRF; 0 for classes that it leaves out."""
        kept = probabilities.flatten(1).amax(1) >= _CRF_MIN_PROBABILITY
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
    """A predictor from a checkpoint. No code in the file is run, nothing is downloaded.

    Args:
        path: a `.safetensors` file, the folder of a run that trained one, or an `.onnx` file of `tag2mask export onnx`;
            other arguments as in `Predictor`.

    Raises:
        NetworkFileError: the file is damaged, or holds something else.
        UsageError: there is no such file, the run has no segmentation network, onnxruntime is not installed; or as
            `Predictor`.
    """
    file = find_checkpoint(Path(path))
    network = OnnxNetwork(file) if file.suffix == ".onnx" else load_segmentation_network(file)
    return Predictor(network, device, settings, pixel_limit=pixel_limit, intensity=intensity)


def find_checkpoint(path: Path) -> Path:
    """The checkpoint at ``path``, a file or the folder of a run that trained one.

    Raises:
        UsageError: it does not exist.
    """
    file = path / SEGMENT_NETWORK if path.is_dir() else path
    if file.is_file():
        return file
    if (path / "config.yaml").is_file():
        raise UsageError(f"{file} does not exist; `tag2mask segment {path}` trains the network")
    raise UsageError(f"{file} does not exist; give a run with a segmentation network, or a .safetensors or .onnx file")


def _enlarge(index: int, probabilities: Tensor, size: tuple[int, int]) -> Iterator[Block]:
    """Resize probabilities (K, h, w) to (H, W) bilinearly, block by block, as logarithms."""
    grid = LogitGrid(probabilities, (probabilities.shape[1] / size[0], probabilities.shape[2] / size[1]))
    rows, columns = (tile_axis(side, side).intervals for side in size)
    for down, across in product(rows, columns):
        values = interpolate([grid], down.centres(probabilities.device), across.centres(probabilities.device))
        logits = values.clamp_min(torch.finfo(values.dtype).tiny).log()
        yield Block(index, down.span, across.span, logits)
