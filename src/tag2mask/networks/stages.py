"""What every backbone is: named stages with strides, a normalisation of its input, and one norm policy."""

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tag2mask.errors import UsageError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Colour = tuple[float, float, float]


class Stage(NamedTuple):
    """One output of a backbone.

    Attributes:
        name: how the backbone itself calls it.
        channels: of the map.
        stride: pixels of the input a cell, along both sides.
    """

    name: str
    channels: int
    stride: int


def offered(stages: Iterable[Stage]) -> str:
    """What an error says of the levels that there are: ``"0 (layer1: 256 channels at stride 4), …"``."""
    return ", ".join(
        f"{index} ({stage.name}: {stage.channels} channels at stride {stage.stride})"
        for index, stage in enumerate(stages)
    )


def normalise(images: Tensor, valid: Tensor | None, mean: Tensor, std: Tensor) -> Tensor:
    """Images as a backbone wants them; padding takes the mean colour, so that what it holds cannot matter.

    Args:
        images: float (N, 3, H, W), RGB in [0, 1].
        valid: bool (N, H, W), False where ``images`` is padding; None means that there is none.
        mean: (1, 3, 1, 1), of the backbone.
        std: (1, 3, 1, 1), of the backbone.

    Returns:
        float (N, 3, H, W).

    Raises:
        UsageError: ``images`` is not (N, 3, H, W).
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise UsageError(f"images should be (N, 3, H, W), they are {tuple(images.shape)}")
    normalised = (images - mean) / std
    return normalised if valid is None else normalised.masked_fill_(valid.logical_not().unsqueeze(1), 0)


class Backbone(nn.Module):
    """A network from images to one map a stage.

    Attributes:
        stages: in the order of computation; the last one feeds the classifier.
        mean: of the input normalisation, RGB in [0, 1].
        std: of the input normalisation.
        pretrained: whether the weights come from somewhere; decides what is frozen.
        default_levels: indices of the stages that make a good joint feature.
        norm_fixed: whether batch norm keeps its running statistics while training.
        stem_fixed: whether the stem is frozen.
    """

    stages: tuple[Stage, ...]
    mean: Colour = IMAGENET_MEAN
    std: Colour = IMAGENET_STD
    pretrained: bool = False
    default_levels: tuple[int, ...]
    norm_fixed: bool = False
    stem_fixed: bool = False

    def forward(self, images: Tensor) -> list[Tensor]:
        """The maps of all stages.

        Args:
            images: float (N, 3, H, W), already normalised; any H and W.

        Returns:
            one (N, channels, ceil(H / stride), ceil(W / stride)) a stage.
        """
        raise NotImplementedError

    @property
    def all_stages(self) -> tuple[Stage, ...]:
        """The stages of `all_maps`: `stages`, and before them finer ones where the backbone has some to offer."""
        return self.stages

    def all_maps(self, images: Tensor) -> list[Tensor]:
        """The maps of `all_stages`, as `forward` gives those of `stages`."""
        return list(self(images))

    def stem(self) -> list[nn.Module]:
        """The modules that are frozen when the weights are pretrained, unless `apply_policy` is told otherwise."""
        return []

    def stem_parameters(self) -> list[nn.Parameter]:
        """The parameters of the modules of `stem`."""
        return [parameter for module in self.stem() for parameter in module.parameters()]

    def freeze_unreached(self, levels: tuple[int, ...]) -> None:
        """Freeze what no chosen stage depends on, so that every trainable parameter gets a gradient (DDP demands it).

        Args:
            levels: the chosen stages; the last one always counts.
        """

    def architecture(self) -> dict[str, Any]:
        """All that is needed to build this backbone again with other weights, as JSON values."""
        raise NotImplementedError

    def apply_policy(self, norm: Literal["auto", "fixed", "trained"] = "auto", *, freeze_stem: bool = True) -> None:
        """Set what trains: pretrained weights keep their running statistics and their stem, random ones train whole.

        To be called before `freeze_unreached`, which has the last word.

        Args:
            norm: `auto` follows `pretrained`; `fixed` and `trained` decide for batch norm alone.
            freeze_stem: False trains the stem of pretrained weights, too.
        """
        self.norm_fixed = self.pretrained if norm == "auto" else norm == "fixed"
        self.stem_fixed = self.pretrained and freeze_stem
        if self.pretrained:
            for parameter in self.stem_parameters():
                parameter.requires_grad_(not self.stem_fixed)
        self.train(self.training)

    def train(self, mode: bool = True) -> "Backbone":
        """As `nn.Module.train`, but fixed batch norm and a frozen stem stay in evaluation mode."""
        super().train(mode)
        if self.norm_fixed:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        if self.stem_fixed:
            for module in self.stem():
                module.eval()
        return self
