"""POT against the slow version of reference_pot.py: loops over images, classes, clusters and pixels."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from pot_problems import Problem, random_problem
from reference_pot import reference_pot
from tag2mask.pot import PotSettings, TransportCams, transport_cams
from tag2mask.pot.settings import MIN_SEEDS


@dataclass
class Settings(PotSettings):
    """With another number of seeds."""

    min_seeds: int = MIN_SEEDS


BASE = Settings(iterations=1000, affinity_radius=2.0)
SETTINGS = {
    "default": BASE,
    "paper": BASE.paper(),
    "single": BASE.single_prototype(),
    "plain": BASE.plain_clusters(),
    "one-cluster": replace(BASE, num_prototypes=1),
    "hard": replace(BASE, allocate="hard"),
    "max": replace(BASE, cluster_reduction="max"),
    "unweighted": replace(BASE, reweight="none"),
    "balanced-uniform": replace(BASE, column_marginal="uniform", epsilon=0.4),
    "cosine": replace(BASE, epsilon=0.2, epsilon_unit="cosine"),
    "similarity": replace(BASE, column_marginal="similarity"),
    "no-affinity": replace(BASE, affinity=None),
    "all-classes": replace(BASE, affinity=None, background="all"),
    "wide-affinity": replace(BASE, affinity=3.0, affinity_radius=20.0),
    "own-scale": replace(BASE, normalise_over="class"),
    "four-clusters": replace(BASE, num_prototypes=4),
    "no-regeneration": replace(BASE, regenerate=False),
    "no-transport": replace(BASE, transport=False, num_prototypes=2),
    "many-seeds": replace(BASE, min_seeds=9, foreground_threshold=0.95, background_threshold=0.01),
}


def assert_same(result: TransportCams, problem: Problem, settings: PotSettings, atol: float) -> None:
    """Compare every image with the slow version."""
    clusters = settings.num_prototypes
    for image in range(len(problem.tags)):
        slow = reference_pot(problem, image, settings)
        used = result.slots.used[image]
        assert result.slots.ids[image][used].tolist() == slow.ids
        inside = problem.valid[image].flatten()
        plan = result.plan[image][inside].unflatten(1, (-1, clusters))[:, used].flatten(1)
        # Relative to what a pixel has to give, as a plan's entries are of the order of 1 / n.
        np.testing.assert_allclose(plan.numpy() * len(slow.plan), slow.plan * len(slow.plan), atol=atol)
        np.testing.assert_allclose(result.class_prototypes[image][used].numpy(), slow.class_prototypes, atol=atol)
        np.testing.assert_allclose(result.prototypes[image][used].numpy(), slow.prototypes, atol=atol)
        np.testing.assert_allclose(result.cams[image].numpy(), slow.cams, atol=atol)


@pytest.mark.parametrize("name", SETTINGS)
def test_parity_with_the_slow_version(name: str) -> None:
    problem = random_problem(3, (1, 3, 0, 2, 2))
    result = transport_cams(problem.features, problem.cams, problem.tags, SETTINGS[name], valid=problem.valid)
    assert_same(result, problem, SETTINGS[name], 1e-4)


# In problems 23 and 25 prototypes of two tags with the same seeds are equal, and rounding decides between them.
@pytest.mark.parametrize("seed", [21, 22, 24, 26])
def test_parity_with_too_few_seeds_and_dropped_tags(seed: int) -> None:
    problem = random_problem(seed, (2, 4, 1), classes=4)
    problem.cams[0, problem.tags[0].nonzero()[0]] = 0  # the first tag of the first image is nowhere
    problem.cams[1].mul_(0.3)  # nothing of the second image is confident
    problem.cams[2][problem.cams[2] < 0.97] = 0  # the third has a single lit pixel, or a few
    for settings in (BASE, BASE.paper(), replace(BASE, num_prototypes=6, min_seeds=3)):
        result = transport_cams(problem.features, problem.cams, problem.tags, settings, valid=problem.valid)
        assert result.slots.dropped.sum() == 1 and result.slots.dropped[0, problem.tags[0]][0]
        assert_same(result, problem, settings, 1e-4)
