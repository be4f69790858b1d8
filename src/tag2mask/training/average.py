"""The mean of a network's weights over the steps of its training."""

from torch import Tensor, nn


class WeightAverage:
    """The mean of the weights over the last steps, each step counting (1 − decay) · decay^age; nothing without a decay.

    In double precision: with a decay near 1 the changes are small beside the weights. Source: ours.

    Attributes:
        decay: how much of the mean each step leaves; None where there is none.
        weights: float64, the mean of each weight that trains and of each running statistic, by name.
    """

    def __init__(self, network: nn.Module, decay: float | None) -> None:
        """Begin with the weights of ``network``; ``decay`` in (0, 1), None follows nothing."""
        self.decay = decay
        self.weights = {} if decay is None else {name: value.double() for name, value in self._followed(network)}

    @staticmethod
    def _followed(network: nn.Module) -> list[tuple[str, Tensor]]:
        """Weights that train, and running statistics."""
        training = {name for name, value in network.named_parameters() if value.requires_grad}
        running = {name for name, value in network.named_buffers() if value.is_floating_point()}
        state = network.state_dict()
        return [(name, value.detach()) for name, value in state.items() if name in training or name in running]

    def follow(self, network: nn.Module) -> None:
        """Take in the weights after a step."""
        if self.decay is not None:
            for name, value in self._followed(network):
                self.weights[name] = self.weights[name].to(value.device).lerp_(value.double(), 1 - self.decay)

    def take_over(self, network: nn.Module) -> None:
        """Give the network the mean weights."""
        state = network.state_dict()
        network.load_state_dict(state | {name: value.to(state[name]) for name, value in self.weights.items()})
