"""The order in which photographs are drawn: a function of seed and step alone, so that a resumed run draws the same."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler


class DrawOrder(Sampler[list[tuple[int, int]]]):
    """Batches of (draw, index) from an endless sequence of permutations, from a given step on.

    The photographs are drawn without replacement epoch after epoch; a batch may straddle two epochs, so no photograph
    is ever left out and a set smaller than a batch works.
    """

    def __init__(
        self,
        photographs: int,
        batch_size: int,
        *,
        seed: int,
        first_step: int,
        last_step: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        """Describe the order.

        Args:
            photographs: size of the set, at least 1.
            batch_size: photographs a step over all processes.
            seed: of the permutations.
            first_step: the first step to draw for, counted from 0.
            last_step: one past the last step.
            rank: of this process, which gets every ``world``-th draw of a batch.
            world: number of processes.
        """
        self.photographs, self.batch_size, self.seed = photographs, batch_size, seed
        self.first_step, self.last_step, self.rank, self.world = first_step, last_step, rank, world

    def __len__(self) -> int:
        """Number of batches."""
        return max(0, self.last_step - self.first_step)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """The batches: lists of (draw, index), ``draw`` counting photographs since the start of training."""
        epoch, order = -1, np.empty(0, dtype=np.int64)
        for step in range(self.first_step, self.last_step):
            batch = []
            for draw in range(step * self.batch_size, (step + 1) * self.batch_size):
                if draw // self.photographs != epoch:
                    epoch = draw // self.photographs
                    order = np.random.default_rng([self.seed, epoch]).permutation(self.photographs)
                batch.append((draw, int(order[draw % self.photographs])))
            yield batch[self.rank :: self.world]
