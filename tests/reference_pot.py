"""POT in plain NumPy, one image at a time: an explanation to read, and the oracle of `tag2mask.pot`.

The method of docs/method.md in its order: self-affinity; confident pixels and clusters (partition); the plan by
PythonOT (allocation); CAMs by regenerated prototypes and the plan (activation). Class 0 is background.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import ot

from pot_problems import Problem
from tag2mask.pot import PotSettings

Maps = dict[int, np.ndarray]  # by class, (n,) each


@dataclass(frozen=True)
class ReferencePot:
    """The result for one image with n valid pixels; a slot is background or a tag."""

    ids: list[int]
    cams: np.ndarray  # (C + 1, h, w)
    plan: np.ndarray  # (n, slots · K)
    prototypes: np.ndarray  # (slots, K, D)
    class_prototypes: np.ndarray  # (slots, D)


def unit(vector: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vector)
    return vector / length if length > 0 else vector


def with_background(tags: Maps, pixels: int, absent: Sequence[np.ndarray] = ()) -> Maps:
    """Background is what no tag claims, nor an absent class."""
    return {0: 1 - np.max([*tags.values(), *absent, np.zeros(pixels)], axis=0), **tags}


def self_affinity(f: np.ndarray, base: Maps, places: np.ndarray, settings: PotSettings) -> tuple[np.ndarray, Maps]:
    """Every pixel takes the mean of its neighbourhood, weighted by similarity of features."""
    if settings.affinity is None:
        return f, base
    squared = ((places[:, None] - places[None]) ** 2).sum(2)
    weights = np.exp(settings.affinity * (f @ f.T - 1) - squared / (2 * settings.affinity_radius**2))
    weights /= weights.sum(1, keepdims=True)
    tags, smooth = {c: weights @ base[c] for c in base if c > 0}, np.stack([unit(row) for row in weights @ f])
    return smooth, with_background({c: values / (values.max() + 1e-5) for c, values in tags.items()}, len(f))


def confident_pixels(base: Maps, settings: PotSettings) -> Maps:
    """The seeds of each class; a class with too few takes its strongest pixels."""
    ids, values = list(base), np.stack(list(base.values()))
    best, seeds = np.array(ids)[values.argmax(0)], {}
    best_tag = np.array(ids[1:])[values[1:].argmax(0)] if len(ids) > 1 else np.zeros(len(best), dtype=int)
    for c, own in base.items():
        if settings.seed_rule == "argmax":
            mask = best == c
        elif c == 0:
            mask = (values[1:] <= settings.background_threshold).all(0)
        else:
            mask = (best_tag == c) & (own >= settings.foreground_threshold)
        if mask.sum() < settings.min_seeds:
            mask = np.zeros(len(own), dtype=bool)
            mask[np.argsort(-own, kind="stable")[: settings.min_seeds]] = True
        seeds[c] = mask
    return seeds


def clusters_of(points: np.ndarray, clusters: int, rounds: int = 10) -> list[np.ndarray]:
    """Spherical k-means from farthest-point seeds: the direction of each cluster, zero where it is empty."""
    centres = [points[np.argmax(points @ points.sum(0))]]
    while len(centres) < clusters:
        distances = np.min([1 - points @ centre for centre in centres], axis=0)
        if distances.max() <= 1e-6:
            break
        centres.append(points[np.argmax(distances)])
    for _ in range(rounds):
        labels = np.argmax(points @ np.stack(centres).T, axis=1)
        centres = [unit(points[labels == k].sum(0)) if (labels == k).any() else c for k, c in enumerate(centres)]
    found = [centre if (labels == k).any() else np.zeros_like(centre) for k, centre in enumerate(centres)]
    return found + [np.zeros(points.shape[1])] * (clusters - len(found))


def areas_of(f: np.ndarray, prototypes: Maps, found: dict[int, list[np.ndarray]], settings: PotSettings) -> Maps:
    """The pixels that each cluster wins without transport, and `min_seeds` more for each class."""
    likeness = {c: np.maximum(f @ prototype, 0) for c, prototype in prototypes.items()}
    likeness = {c: values / (values.max() + 1e-5) for c, values in likeness.items()}
    won = {c: np.zeros(len(clusters)) for c, clusters in found.items()}
    for i, pixel in enumerate(f):
        c = max(likeness, key=lambda c: float(likeness[c][i]))
        won[c][np.argmax([pixel @ p if p.any() else -np.inf for p in found[c]])] += 1
    filled = {c: np.array([p.any() for p in clusters]) for c, clusters in found.items()}
    return {c: counts + filled[c] * settings.min_seeds / filled[c].sum() for c, counts in won.items()}


def plan_of(cost: np.ndarray, columns: np.ndarray, settings: PotSettings) -> np.ndarray:
    """The transport plan over the columns that may receive mass; each pixel gives 1 / n."""
    n, is_open, plan = len(cost), columns > 0, np.zeros_like(cost)
    if not settings.transport:
        plan[:, is_open] = 1 / n / is_open.sum()
        return plan
    cost, columns = cost[:, is_open], columns[is_open]
    if settings.epsilon_unit == "spread":
        deviation = np.sqrt(np.mean([columns @ (row - columns @ row) ** 2 for row in cost]))
        cost = cost / deviation if deviation > 1e-6 else cost
    problem = np.full(n, 1 / n), columns, cost
    plan[:, is_open] = ot.sinkhorn(*problem, settings.epsilon, stopThr=1e-13, numItermax=20_000)
    return plan


def reference_pot(problem: Problem, image: int, settings: PotSettings) -> ReferencePot:
    """POT for one image."""
    inside, clusters = problem.valid[image].numpy(), settings.num_prototypes
    f = np.stack([unit(row) for row in problem.features[image].double().numpy()[:, inside].T])  # (n, D)
    maps = problem.cams[image].double().numpy()[:, inside]  # (C, n)
    tags = {c + 1: maps[c] for c in range(len(maps)) if problem.tags[image, c] and maps[c].max() > 0}
    absent = [maps[c] for c in range(len(maps)) if settings.background == "all" and not problem.tags[image, c]]
    f, base = self_affinity(f, with_background(tags, len(f), absent), np.argwhere(inside), settings)

    # Partition: several prototypes for each class, from its confident pixels.
    seeds = confident_pixels(base, settings)
    class_prototypes = {c: unit(f[seeds[c]].sum(0)) for c in base}
    found = {c: clusters_of(f[seeds[c]], clusters) for c in base}
    prototypes = np.concatenate([found[c] for c in base])  # (slots · K, D)

    # Allocation: the plan shares the pixels out among all prototypes of the image.
    similarity = [max(float(p @ class_prototypes[c]), 1e-3) if p.any() else 0.0 for c in base for p in found[c]]
    mass = np.array(similarity)
    if settings.column_marginal == "uniform" or not settings.transport:
        mass = (mass > 0).astype(float)
    elif settings.column_marginal == "area":
        mass = np.concatenate(list(areas_of(f, class_prototypes, found, settings).values()))
    mass = mass / mass.sum()
    plan = plan_of(1 - f @ prototypes.T, mass, settings)

    # Activation: prototypes from the features allocated to them, and CAMs weighted by the plan.
    if settings.regenerate:
        hard = np.arange(plan.shape[1]) == plan.argmax(1)[:, None]
        weights = plan * hard if settings.allocate == "hard" else plan
        regenerated = [unit(w @ f) if w.sum() > 0 else p for w, p in zip(weights.T, prototypes, strict=True)]
        prototypes = np.stack(regenerated)
    posterior = plan / plan.sum(1, keepdims=True)
    weight = posterior if settings.reweight == "posterior" else (mass > 0).astype(float)
    activation = (weight * np.maximum(f @ prototypes.T, 0)).reshape(len(f), len(base), clusters)
    cams = np.zeros((len(maps) + 1, *inside.shape))
    for slot, c in enumerate(base):
        cams[c][inside] = (
            activation[:, slot].sum(1) if settings.cluster_reduction == "sum" else activation[:, slot].max(1)
        )
    cams /= cams.max(axis=None if settings.normalise_over == "image" else (1, 2), keepdims=True) + 1e-5
    slots = prototypes.reshape(len(base), clusters, -1)
    return ReferencePot(list(base), cams, plan, slots, np.stack(list(class_prototypes.values())))
