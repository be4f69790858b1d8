"""The weights that measured best while training, for those who ask for them."""

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

FIGURE = "validation_miou"
"""The figure that decides; higher is better."""


class BestWeights:
    """The weights of the step with the highest figure; nothing unless asked for.

    Attributes:
        asked: whether they are wanted.
        figure: the highest so far; None before the first one.
        step: at which it was measured.
        weights: of the network at that step, by name.
    """

    def __init__(self, *, asked: bool) -> None:
        """Nothing has been measured yet."""
        self.asked = asked
        self.figure: float | None = None
        self.step = 0
        self.weights: dict[str, Tensor] = {}

    def offer(self, network: nn.Module, figures: Mapping[str, float], step: int) -> None:
        """Keep the network's weights if they measured better than all before."""
        figure = figures.get(FIGURE)
        if self.asked and figure is not None and (self.figure is None or figure > self.figure):
            self.figure, self.step = figure, step
            self.weights = {name: copy.deepcopy(value.detach().cpu()) for name, value in network.state_dict().items()}

    def state(self) -> dict[str, Any]:
        """What a resumed training needs."""
        return {"figure": self.figure, "step": self.step, "weights": self.weights}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Take up what `state` gave."""
        self.figure, self.step, self.weights = state["figure"], state["step"], dict(state["weights"])

    def take_over(self, network: nn.Module) -> None:
        """Give the network the best weights, if there are any."""
        if self.weights:
            network.load_state_dict(self.weights)
