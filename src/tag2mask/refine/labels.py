"""From the maps of classes to labels: the most likely class, and the labels that are sure enough to learn from."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from tag2mask.data.images import IGNORED
from tag2mask.refine.crf import dense_crf, label_probabilities
from tag2mask.refine.settings import SureSettings


@dataclass(frozen=True)
class ClassMaps:
    """Maps of the classes that a photograph may hold.

    Attributes:
        ids: uint8 (K,), ascending, 0 = background if it is among them.
        maps: float32 (K, h, w), not negative.
    """

    ids: Tensor
    maps: Tensor

    @property
    def has_background(self) -> bool:
        """Whether background is one of the maps."""
        return bool(self.ids.numel()) and int(self.ids[0]) == 0

    def resized(self, size: tuple[int, int]) -> "ClassMaps":
        """The maps at (H, W), bilinear with ``align_corners=False``."""
        if self.maps.shape[1:] == size or not len(self.ids):
            return ClassMaps(self.ids, self.maps if len(self.ids) else self.maps.new_zeros(0, *size))
        return ClassMaps(self.ids, F.interpolate(self.maps[None], size=size, mode="bilinear")[0])

    def with_background(self, level: float) -> "ClassMaps":
        """The same where background is among them; else with a background of this value before them."""
        if self.has_background:
            return self
        background = self.maps.new_full((1, *self.maps.shape[1:]), level)
        return ClassMaps(torch.cat([self.ids.new_zeros(1), self.ids]), torch.cat([background, self.maps]))

    def labels(self, confidence: float | None = None) -> Tensor:
        """The class of the highest map at each pixel: uint8 (h, w); a tie goes to the lower id.

        Args:
            confidence: where the highest map is below this, the label is 255; None keeps every label.
        """
        highest, place = self.maps.max(0)
        labels = self.ids[place]
        return labels if confidence is None else labels.masked_fill(highest < confidence, IGNORED)


def sure_labels(images: Sequence[Tensor], maps: Sequence[ClassMaps], settings: SureSettings) -> list[Tensor]:
    """The labels that edges are learnt from: two passes that differ in how strong the background is, each by a CRF.

    A class where the pass with the stronger background says so; background where even the one with the weaker
    background does; 255 between.

    Args:
        images: uint8 (H, W, 3), RGB, on the device that is to do the work.
        maps: of each, (K, H, W).
        settings: of the passes.

    Returns:
        uint8 (H, W) for each.

    Source: IRN for maps without background, SIPE for maps with one.
    """
    # The two passes of a photograph, for sure classes and for sure background, follow each other: they share a kernel.
    both = [_with_background(own, settings, number) for own in maps for number in range(2)]
    given = [label_probabilities(each.maps.argmax(0), len(each.ids), settings.confidence) for each in both]
    refined = dense_crf([image for image in images for _ in range(2)], given, settings.crf)
    found = [each.ids[marginals.argmax(0)] for each, marginals in zip(both, refined, strict=True)]
    pairs = zip(found[::2], found[1::2], strict=True)
    return [torch.where((strict == 0) & (loose != 0), IGNORED, strict) for strict, loose in pairs]


def _with_background(own: ClassMaps, settings: SureSettings, number: int) -> ClassMaps:
    """The maps of a pass."""
    if not own.has_background:
        return own.with_background(settings.background_levels[number])
    factor = torch.ones(len(own.ids), 1, 1, device=own.maps.device)
    factor[0] = settings.background_factors[number]
    return ClassMaps(own.ids, own.maps * factor)
