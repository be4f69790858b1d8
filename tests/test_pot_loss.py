"""The consistency loss by hand, and where its gradient goes."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from pot_problems import Problem, random_problem
from tag2mask.core.errors import UsageError
from tag2mask.pot import PotSettings, TransportCams, certainty, consistency_loss, transport_cams


def solve(problem: Problem, pot: PotSettings | None = None) -> TransportCams:
    """POT of the problem."""
    return transport_cams(problem.features, problem.cams, problem.tags, pot, valid=problem.valid)


def by_hand(problem: Problem, cams: np.ndarray, result: TransportCams, *, adaptive: bool) -> list[float]:
    """The loss of each image, class by class and pixel by pixel."""
    losses = []
    plan, clusters = result.plan.numpy(), result.prototypes.shape[2]
    for image, tags in enumerate(problem.tags.tolist()):
        kept = [c + 1 for c, tagged in enumerate(tags) if tagged and not result.slots.dropped[image, c]]
        classes = []
        for slot, c in enumerate([0, *kept]):
            numerator = denominator = 0.0
            for i in problem.valid[image].flatten().nonzero().flatten().tolist():
                a = [cams[image, t - 1].flat[i] for t in kept]
                claims = cams[image].reshape(len(tags), -1)[:, i] if result.slots.background == "all" else a
                own = 1 - max(claims, default=0.0) if c == 0 else a[slot - 1]
                share = plan[image, i, slot * clusters : (slot + 1) * clusters].sum() / plan[image, i].sum()
                q = min(max(float(share), 1e-6), 1 - 1e-6)
                entropy = -q * math.log(q) - (1 - q) * math.log(1 - q)
                weight = 1 - entropy / math.log(2) if adaptive else 1.0
                numerator += weight * abs(own - float(result.cams[image, c].flatten()[i]))
                denominator += weight
            classes.append(numerator / (denominator + 1e-6))
        losses.append(sum(classes) / len(classes))
    return losses


@pytest.mark.parametrize("adaptive", [True, False])
@pytest.mark.parametrize("pot", [PotSettings(), PotSettings().paper()], ids=["default", "paper"])
def test_the_value_by_hand(adaptive: bool, pot: PotSettings) -> None:
    problem = random_problem(1, (2, 0, 3, 1))
    problem.cams[3] = 0  # its only tag is dropped
    result = solve(problem, pot)
    loss = consistency_loss(problem.cams, problem.tags, result, adaptive=adaptive)
    expected = by_hand(problem, problem.cams.numpy(), result, adaptive=adaptive)
    assert loss.shape == () and loss.item() == pytest.approx(np.mean(expected), abs=1e-5)
    # The target may come from other CAMs than those that POT started from.
    other = problem.cams.roll(1, 3).masked_fill(~problem.valid[:, None], 0)
    expected = by_hand(problem, other.numpy(), result, adaptive=adaptive)
    loss = consistency_loss(other, problem.tags, result, adaptive=adaptive)
    assert loss.item() == pytest.approx(np.mean(expected), abs=1e-5)


def test_it_is_the_mean_over_images_however_they_are_spread() -> None:
    problem = random_problem(2, (2, 0, 3, 1))
    whole = consistency_loss(problem.cams, problem.tags, solve(problem))
    parts = []
    for one in (slice(0, 1), slice(1, 4)):
        part = problem.images(one)
        parts.append(len(part.tags) * consistency_loss(part.cams, part.tags, solve(part)))
    torch.testing.assert_close(whole, torch.stack(parts).sum() / 4, rtol=1e-5, atol=0)


def test_padding_and_absent_classes_do_not_matter() -> None:
    problem = random_problem(3, (2, 1))
    loss = consistency_loss(problem.cams, problem.tags, solve(problem))
    cams = problem.cams.masked_fill(~problem.valid[:, None], 0.7)
    torch.testing.assert_close(consistency_loss(cams, problem.tags, solve(problem)), loss, rtol=0, atol=0)
    cams = torch.cat([problem.cams, torch.rand(2, 50, 8, 9)], 1)
    tags = torch.cat([problem.tags, torch.zeros(2, 50).bool()], 1)
    many = transport_cams(problem.features, cams, tags, valid=problem.valid)
    torch.testing.assert_close(consistency_loss(cams, tags, many), loss, rtol=0, atol=0)


def test_certainty_is_one_minus_the_binary_entropy() -> None:
    posterior = torch.tensor([0.0, 0.11002786, 0.5, 0.88997214, 1.0])  # h(0.11) = ½ bit
    torch.testing.assert_close(certainty(posterior), torch.tensor([1.0, 0.5, 0.0, 0.5, 1.0]), atol=3e-5, rtol=0)
    curve = certainty(torch.linspace(0.5, 1, 100))
    assert (curve.diff() > 0).all() and curve.amin() >= -1e-6 and curve.amax() <= 1


def test_where_the_plan_is_undecided_nothing_is_asked() -> None:
    problem = random_problem(4, (1, 1), ragged=False)
    undecided = replace(PotSettings(), transport=False, regenerate=False)  # two classes, each with half of every pixel
    result = solve(problem, undecided)
    assert consistency_loss(problem.cams, problem.tags, result).item() == pytest.approx(0, abs=1e-2)
    assert consistency_loss(problem.cams, problem.tags, result, adaptive=False).item() > 0.1


@pytest.mark.parametrize("pot", [PotSettings(), PotSettings().paper()], ids=["default", "paper"])
def test_the_gradient_goes_to_the_side_that_is_not_stopped(pot: PotSettings) -> None:
    problem = random_problem(5, (2, 0, 1))
    gradients: dict[str, list[Tensor]] = {}
    for stop in ("none", "pot", "classifier"):
        features, cams = (value.clone().requires_grad_() for value in (problem.features, problem.cams))
        result = solve(Problem(features, cams, problem.tags, problem.valid), pot)
        loss = consistency_loss(cams, problem.tags, result, stop_gradient=stop)  # type: ignore[arg-type]
        found = torch.autograd.grad(loss, [features, cams], allow_unused=True)
        gradients[stop] = [torch.zeros(()) if value is None else value for value in found]
    assert gradients["pot"][0].eq(0).all() and gradients["classifier"][1].eq(0).all()
    for stop, index in (("pot", 1), ("classifier", 0)):
        assert gradients[stop][index].abs().sum() > 0
        torch.testing.assert_close(gradients[stop][index], gradients["none"][index], rtol=1e-5, atol=1e-8)
    absent = ~problem.tags[:, :, None, None].expand_as(problem.cams)
    assert gradients["none"][1][absent].eq(0).all() == (pot.background == "tags")
    for gradient in gradients["none"]:
        assert gradient[(~problem.valid)[:, None].expand_as(gradient)].eq(0).all()


def test_the_gradient_of_the_classifier_is_that_of_fixed_weights_and_targets() -> None:
    problem = random_problem(6, (2, 1))
    cams = problem.cams.clone().requires_grad_()
    result = solve(Problem(problem.features, cams, problem.tags, problem.valid))
    (gradient,) = torch.autograd.grad(consistency_loss(cams, problem.tags, result), cams)
    constant = cams.detach().requires_grad_()
    total = torch.zeros(())
    for image in range(2):
        present = [0, *(problem.tags[image].nonzero().flatten() + 1).tolist()]
        tags = constant[image, [c - 1 for c in present[1:]]] * problem.valid[image]
        base = torch.cat([1 - tags.amax(0, keepdim=True), tags])
        weight = certainty(result.posterior[image, : len(present)]).detach() * problem.valid[image]
        difference = (base - result.cams[image, present].detach()).abs()
        total = total + ((weight * difference).sum((1, 2)) / (weight.sum((1, 2)) + 1e-6)).mean() / 2
    (expected,) = torch.autograd.grad(total, constant)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-8)


def test_cams_of_another_grid_are_refused() -> None:
    problem = random_problem(9, (2, 1))
    result = solve(problem)
    with pytest.raises(UsageError, match=r"cams should be \(N, C, h, w\) = \(2, C, 8, 9\).*received \(2, 5, 7, 9\)"):
        consistency_loss(problem.cams[:, :, 1:], problem.tags, result)
    with pytest.raises(UsageError, match=r"received \(1, 5, 8, 9\) and \(1, 5\)"):
        consistency_loss(problem.cams[:1], problem.tags[:1], result)
