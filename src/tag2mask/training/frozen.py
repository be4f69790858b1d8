"""The training of a network with a frozen backbone, on joint features that were computed once per image.

First the classifier of cells learns the tags; then POT assigns the cells of every image to background and tags, and the
classifier learns these assignments. Source: ours (docs/method.md, "Frozen features").
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tag2mask.core.errors import UsageError
from tag2mask.networks.cell_classifier import CellClassifier, image_logits, local_means
from tag2mask.networks.pot_network import PotNetwork
from tag2mask.pot import PotSettings, normalised_cams, transport_cams
from tag2mask.pot.settings import MIN_SEEDS
from tag2mask.training.settings import TrainSettings

SURE = 0.6
"""The share of its cell's mass from which an assignment is learned; ours."""

CELLS_PER_IMAGE = 200
"""Most cells of an image whose assignments are learned, drawn at random; ours."""

MOST_CELLS = 2_000_000
"""Most cells of all images together whose assignments are learned, for the memory; ours."""

BACKGROUND_CELLS = 6000
"""Most cells of images without tags that a network keeps; ours."""

CELLS_PER_STEP = 4096
"""Cells per training step on assignments; ours."""

_WEIGHT_DECAY = 1e-2

_FIRST_BIAS = -2.0
"""The classifier starts with low probabilities, since a tag's cells are few."""

_LEAST_DEVIATION = 1e-4


@dataclass(frozen=True)
class CellLosses:
    """The loss of a batch, a scalar: on tags (``classification``) or on assignments (``consistency``)."""

    total: Tensor
    classification: Tensor | None = None
    consistency: Tensor | None = None


OnStep = Callable[[int, CellLosses], None]


@dataclass(frozen=True)
class FeatureSet:
    """Joint features of images, read on access.

    Attributes:
        read: the features of image i, float16 or float32 (D, h, w), unit length over channels.
        tags: bool (N, C).
    """

    read: Callable[[int], Tensor]
    tags: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.tags)

    def cells(self, index: int) -> Tensor:
        """The cells of an image, float32 (h·w, D)."""
        return self.read(index).float().flatten(1).T


def train_classifier(
    network: PotNetwork,
    features: FeatureSet,
    settings: TrainSettings,
    pot: PotSettings,
    *,
    seed: int,
    on_step: OnStep = lambda step, losses: None,
) -> None:
    """Train the classifier of a frozen network, in place, on its device; equal arguments give equal weights on a CPU.

    The share `consistency_start` of the steps is on tags, the rest on assignments; with a `consistency_weight` of 0,
    all steps are on tags.

    Raises:
        UsageError: the network is not frozen.
    """
    classifier = network.classifier
    if not isinstance(classifier, CellClassifier):
        raise UsageError("network.freeze is false: `train_network` trains this network")
    generator = torch.Generator().manual_seed(seed)
    classifier.background = known_background(features, torch.Generator().manual_seed(seed)).to(classifier.weight.device)
    total = settings.total_steps(len(features))
    on_tags = total if settings.consistency_weight == 0 else max(1, round(total * settings.consistency_start))
    _standardise(classifier, features)
    for step, losses in enumerate(_learn_tags(classifier, features, settings, on_tags, generator), 1):
        on_step(step, losses)
    if on_tags < total:
        cells, labels = assignments(network, features, pot, generator)
        trained = _learn_assignments(classifier, cells, labels, settings, total - on_tags, generator)
        for step, losses in enumerate(trained, on_tags + 1):
            on_step(step, losses)


@torch.no_grad()
def assignments(
    network: PotNetwork, features: FeatureSet, pot: PotSettings, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Cells that POT assigns to one class with a share of at least `SURE`, at most `CELLS_PER_IMAGE` per image.

    All cells of an image without tags are background. A class without any such cell gets the `MIN_SEEDS` cells with the
    largest share of each of its images.

    Returns:
        float16 (M, D) and int64 (M,), class ids, 0 = background, on the CPU.
    Source: ours.
    """
    device = next(network.parameters()).device
    most = max(1, min(CELLS_PER_IMAGE, MOST_CELLS // len(features)))
    cells: list[Tensor] = []
    labels: list[Tensor] = []
    fallback: dict[int, list[Tensor]] = defaultdict(list)
    for index in range(len(features)):
        joint = features.read(index)[None].float().to(device)  # (1, D, h, w)
        tags = torch.from_numpy(features.tags[index : index + 1]).to(device)
        own = joint[0].flatten(1).T.cpu().half()  # (n, D)
        best, ids = torch.ones(len(own)), torch.zeros(len(own), dtype=torch.int64)
        if tags.any():
            result = transport_cams(joint, normalised_cams(network.classified(joint).cams), tags, pot)
            shares = result.posterior[0].flatten(1).cpu()  # (S, n)
            best, slots = shares.max(0)
            of_slot = result.slots.ids[0].cpu()
            ids = of_slot[slots]
            for slot, number in enumerate(of_slot.tolist()):
                if number:
                    fallback[number].append(own[shares[slot].topk(min(MIN_SEEDS, len(own))).indices])
        sure = (best >= SURE).nonzero()[:, 0]
        chosen = sure[torch.randperm(len(sure), generator=generator)[:most]]
        cells.append(own[chosen])
        labels.append(ids[chosen])
    found = {number for each in labels for number in each.tolist()}
    for number in sorted(fallback.keys() - found):
        cells += fallback[number]
        labels += [torch.full((len(each),), number) for each in fallback[number]]
    return torch.cat(cells), torch.cat(labels)


def known_background(features: FeatureSet, generator: torch.Generator) -> Tensor:
    """Cells of the images without tags: float16 (B, D), at most `BACKGROUND_CELLS`, as many of each image, at random.

    Each is the mean of 3 × 3 cells. Source: ours; a random sample in place of PatchCore's coreset.
    """
    untagged = torch.from_numpy(np.flatnonzero(~features.tags.any(1)))
    most = max(1, BACKGROUND_CELLS // max(1, len(untagged)))
    found = [torch.zeros(0, features.read(0).shape[0], dtype=torch.float16)]
    for index in untagged[torch.randperm(len(untagged), generator=generator)[:BACKGROUND_CELLS]].tolist():
        cells = local_means(features.read(index)[None])[0].flatten(1).T.half()
        found.append(cells[torch.randperm(len(cells), generator=generator)[:most]])
    return torch.cat(found)


def _standardise(classifier: CellClassifier, features: FeatureSet) -> None:
    """Give the classifier mean and deviation of each channel, over all images alike."""
    each = [torch.stack([cells.mean(0), cells.square().mean(0)]) for cells in map(features.cells, range(len(features)))]
    mean, square = torch.stack(each).double().mean(0)
    deviation = (square - mean.square()).clamp_min(0).sqrt()
    classifier.mean.copy_(mean)
    classifier.scale.copy_(1 / (deviation + _LEAST_DEVIATION))


def _optimised(
    weight: nn.Parameter, bias: nn.Parameter, settings: TrainSettings, steps: int, loss: Callable[[], CellLosses]
) -> Iterator[CellLosses]:
    """AdamW from the present weights, with a learning rate that falls to 0."""
    groups: list[dict[str, Any]] = [{"params": [weight]}, {"params": [bias], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, weight_decay=_WEIGHT_DECAY)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * settings.decayed(step, steps)
        losses = loss()
        optimizer.zero_grad()
        losses.total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        yield losses


def _learn_tags(
    classifier: CellClassifier,
    features: FeatureSet,
    settings: TrainSettings,
    steps: int,
    generator: torch.Generator,
) -> Iterator[CellLosses]:
    device = classifier.weight.device
    nn.init.zeros_(classifier.weight)
    nn.init.constant_(classifier.bias, _FIRST_BIAS)
    left: list[int] = []

    def loss() -> CellLosses:
        batch: list[int] = []
        while len(batch) < min(settings.batch_size, len(features)):
            if not left:
                left.extend(torch.randperm(len(features), generator=generator).tolist())
            batch.append(left.pop())
        logits = torch.cat([image_logits(classifier(features.cells(index).to(device))[None]) for index in batch])
        tags = torch.from_numpy(features.tags[batch]).to(device)
        value = F.multilabel_soft_margin_loss(logits, tags.float())
        return CellLosses(value, classification=value)

    return _optimised(classifier.weight, classifier.bias, settings, steps, loss)


def _learn_assignments(
    classifier: CellClassifier,
    cells: Tensor,
    labels: Tensor,
    settings: TrainSettings,
    steps: int,
    generator: torch.Generator,
) -> Iterator[CellLosses]:
    """Train from zero. Background has its own weights, which are subtracted at the end; this converges faster."""
    classes, channels = classifier.weight.shape
    device = classifier.weight.device
    weight = nn.Parameter(torch.zeros(classes + 1, channels, device=device))
    bias = nn.Parameter(torch.zeros(classes + 1, device=device))

    def loss() -> CellLosses:
        batch = torch.randint(len(cells), (CELLS_PER_STEP,), generator=generator)
        logits = F.linear(classifier.standardised(cells[batch].float().to(device)), weight, bias)
        value = F.cross_entropy(logits, labels[batch].to(device))
        return CellLosses(value, consistency=value)

    yield from _optimised(weight, bias, settings, steps, loss)
    with torch.no_grad():
        classifier.weight.copy_(weight[1:] - weight[:1])
        classifier.bias.copy_(bias[1:] - bias[:1])
