"""Entropic transport against PythonOT, the Hungarian assignment, closed forms and the properties of its optimum."""

import math
from itertools import pairwise
from typing import Any

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from tag2mask.core.errors import UsageError
from tag2mask.ot.transport import Relaxation, sinkhorn

EPSILONS = (0.05, 0.1, 0.25, 0.5, 1.0)
RHOS: tuple[Relaxation | None, ...] = (None, 0.2, (0.5, 0.1), 2.0)
PROBLEMS_EACH = 10  # 5 · 4 · 10 = 200


def random_problem(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cosine distances (n, m) between random directions, with random marginals."""
    n, m = rng.integers(2, 41), rng.integers(2, 13)
    x, y = rng.normal(size=(n, 8)), rng.normal(size=(m, 8))
    cost = 1 - (x / np.linalg.norm(x, axis=1, keepdims=True)) @ (y / np.linalg.norm(y, axis=1, keepdims=True)).T
    return cost, rng.dirichlet(np.full(n, 2.0)), rng.dirichlet(np.full(m, 2.0))


def solved_by_pythonot(
    cost: np.ndarray, a: np.ndarray, b: np.ndarray, epsilon: float, rho: Relaxation | None
) -> np.ndarray:
    """The plan (n, m) according to PythonOT."""
    if rho is None:
        return np.asarray(ot.sinkhorn(a, b, cost, epsilon, stopThr=1e-13, numItermax=20_000, warn=False))
    weights = tuple(math.inf if value is None else value for value in (rho if isinstance(rho, tuple) else (None, rho)))
    return np.asarray(
        ot.unbalanced.sinkhorn_unbalanced(
            a, b, cost, epsilon, reg_m=weights, reg_type="entropy", stopThr=1e-14, numItermax=20_000
        )
    )


def padded(problems: list[tuple[np.ndarray, ...]], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """One batch (B, n, m), (B, n), (B, m) of problems of different sizes, with garbage for the costs of padding."""
    n, m = (max(problem[0].shape[axis] for problem in problems) + 1 for axis in (0, 1))
    cost = torch.full((len(problems), n, m), 7.0, dtype=dtype)
    a, b = torch.zeros(len(problems), n, dtype=dtype), torch.zeros(len(problems), m, dtype=dtype)
    for index, (one_cost, one_a, one_b) in enumerate(problems):
        rows, columns = one_cost.shape
        cost[index, :rows, :columns] = torch.from_numpy(one_cost)
        a[index, :rows], b[index, :columns] = torch.from_numpy(one_a), torch.from_numpy(one_b)
    return cost, a, b


def random_batch(
    seed: int, batch: int, n: int, m: int, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    """Costs in [0, 2] and positive marginals."""
    generator = torch.Generator().manual_seed(seed)
    cost = 2 * torch.rand(batch, n, m, generator=generator, dtype=torch.float64)
    a = torch.softmax(torch.randn(batch, n, generator=generator, dtype=torch.float64), 1)
    b = torch.softmax(torch.randn(batch, m, generator=generator, dtype=torch.float64), 1)
    return cost.to(dtype), a.to(dtype), b.to(dtype)


# Against libraries


@pytest.mark.filterwarnings("ignore:If reg_type = entropy")
@pytest.mark.parametrize("epsilon", EPSILONS)
@pytest.mark.parametrize("rho", RHOS, ids=str)
def test_agrees_with_pythonot_alone_and_padded_into_a_batch(epsilon: float, rho: Relaxation | None) -> None:
    rng = np.random.default_rng([int(100 * epsilon), RHOS.index(rho)])
    problems = [random_problem(rng) for _ in range(PROBLEMS_EACH)]
    iterations = int((50 if rho == 2.0 else 20) / epsilon)  # the looser the constraint, the slower, short of balanced
    batch = sinkhorn(*padded(problems, torch.float64), epsilon=epsilon, rho=rho, iterations=iterations)
    single = sinkhorn(*padded(problems, torch.float32), epsilon=epsilon, rho=rho, iterations=iterations)
    assert batch.converged.all() and single.converged.all()
    assert single.plan.dtype == torch.float32
    for index, (cost, a, b) in enumerate(problems):
        expected = solved_by_pythonot(cost, a, b, epsilon, rho)
        rows, columns = cost.shape
        inputs = (torch.from_numpy(value)[None] for value in (cost, a, b))
        alone = sinkhorn(*inputs, epsilon=epsilon, rho=rho, iterations=iterations).plan[0].numpy()
        # Relative to each entry, however small, which is stricter than relative to the plan.
        np.testing.assert_allclose(alone, expected, rtol=1e-6, atol=0)
        np.testing.assert_allclose(batch.plan[index, :rows, :columns].numpy(), expected, rtol=1e-6, atol=0)
        np.testing.assert_allclose(single.plan[index, :rows, :columns].numpy(), expected, rtol=1e-3, atol=0)
        for plan in (batch.plan[index], single.plan[index]):
            assert plan[rows:].eq(0).all() and plan[:, columns:].eq(0).all()


def test_becomes_the_optimal_assignment_as_epsilon_vanishes() -> None:
    cost, _, _ = random_batch(1, 6, 7, 7)
    mass = torch.full((6, 7), 1 / 7, dtype=torch.float64)
    plan = sinkhorn(cost, mass, mass, epsilon=2e-3, iterations=4000).plan
    for one_plan, one_cost in zip(plan.numpy(), cost.numpy(), strict=True):
        rows, columns = linear_sum_assignment(one_cost)
        np.testing.assert_array_equal(one_plan.argmax(1), columns)
        assert (one_plan * one_cost).sum() == pytest.approx(one_cost[rows, columns].mean(), abs=2e-3)


# Closed forms


def test_two_by_two_balanced_in_closed_form() -> None:
    cost, epsilon = torch.tensor([[[0.2, 1.0], [0.7, 0.4]]], dtype=torch.float64), 0.3
    half = torch.full((1, 2), 0.5, dtype=torch.float64)
    # With mass ½ everywhere the plan is [[p, ½ − p], [½ − p, p]], p / (½ − p) the root of the kernel's cross ratio.
    ratio = math.exp((1.0 + 0.7 - 0.2 - 0.4) / (2 * epsilon))
    p = 0.5 * ratio / (1 + ratio)
    plan = sinkhorn(cost, half, half, epsilon=epsilon).plan[0]
    expected = torch.tensor([[p, 0.5 - p], [0.5 - p, p]], dtype=torch.float64)
    torch.testing.assert_close(plan, expected, rtol=1e-9, atol=0)


def test_one_by_one_relaxed_in_closed_form() -> None:
    cost, one = torch.tensor([[[0.9]]], dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    # Minimise C t + ε t (log t − 1) + (ρ₁ + ρ₂)(t log t − t + 1): t = exp(−C / (ε + ρ₁ + ρ₂)).
    plan = sinkhorn(cost, one, one, epsilon=0.25, rho=(0.5, 0.75), iterations=200).plan
    assert plan.item() == pytest.approx(math.exp(-0.9 / 1.5), rel=1e-10)
    assert sinkhorn(cost, one, one, epsilon=0.25, rho=0.5).plan.item() == pytest.approx(1, rel=1e-12)


def test_a_separable_cost_gives_the_product_of_the_marginals() -> None:
    _, a, b = random_batch(2, 3, 6, 5)
    cost = torch.rand(3, 6, 1, dtype=torch.float64) + torch.rand(3, 1, 5, dtype=torch.float64)
    result = sinkhorn(cost, a, b, epsilon=0.1, iterations=2)
    torch.testing.assert_close(result.plan, a[:, :, None] * b[:, None], rtol=1e-10, atol=0)


def test_a_dirac_sends_all_mass_where_it_must() -> None:
    cost, a, _ = random_batch(3, 2, 9, 1)
    result = sinkhorn(cost, a, torch.ones(2, 1, dtype=torch.float64), epsilon=0.05, iterations=1)
    torch.testing.assert_close(result.plan[:, :, 0], a)


def test_gaussians_on_a_line_in_closed_form() -> None:
    grid = torch.linspace(-6, 6, 301, dtype=torch.float64)
    variances, epsilon = (1.0, 0.5), 0.8
    a, b = (torch.softmax(-(grid**2) / (2 * variance), 0)[None] for variance in variances)
    plan = sinkhorn((grid[:, None] - grid)[None] ** 2, a, b, epsilon=epsilon, iterations=300).plan[0]
    # The entropic plan between Gaussians is Gaussian (Janati et al. 2020); for |x − y|² and ε its covariance in one
    # dimension is (√(4 s t + (ε/2)²) − ε/2) / 2.
    expected = (math.sqrt(4 * variances[0] * variances[1] + (epsilon / 2) ** 2) - epsilon / 2) / 2
    assert (grid @ plan @ grid).item() == pytest.approx(expected, rel=1e-6)


# Properties

sizes = st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 6))
rhos = st.sampled_from([None, 0.1, 1.0, (0.3, None), (0.2, 0.4)])


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), size=sizes, epsilon=st.floats(0.1, 1), rho=rhos)
def test_optimality(seed: int, size: tuple[int, int, int], epsilon: float, rho: Relaxation | None) -> None:
    cost, a, b = random_batch(seed, *size)
    result = sinkhorn(cost, a, b, epsilon=epsilon, rho=rho, iterations=600)
    assert (result.plan >= 0).all() and result.converged.all() and result.iterations == 600
    f, g = result.row_potential, result.column_potential
    torch.testing.assert_close(result.plan, torch.exp(f[:, :, None] + g[:, None] - cost / epsilon), rtol=1e-8, atol=0)
    rows, columns = result.plan.sum(2), result.plan.sum(1)
    torch.testing.assert_close(result.row_error, (rows - a).abs().sum(1))
    torch.testing.assert_close(result.column_error, (columns - b).abs().sum(1))
    # First order: a relaxed marginal is its target times e^{−ε potential / ρ}, an exact one is its target.
    row_rho, column_rho = rho if isinstance(rho, tuple) else (None, rho)
    for marginal, target, potential, weight in ((rows, a, f, row_rho), (columns, b, g, column_rho)):
        factor = 1.0 if weight is None else torch.exp(-epsilon * potential / weight)
        torch.testing.assert_close(marginal, target * factor, rtol=1e-5, atol=1e-9)


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), size=sizes, rho=rhos)
def test_permutations_and_scale(seed: int, size: tuple[int, int, int], rho: Relaxation | None) -> None:
    cost, a, b = random_batch(seed, *size)
    plan = sinkhorn(cost, a, b, epsilon=0.3, rho=rho, iterations=30).plan
    generator = torch.Generator().manual_seed(seed)
    p, q, r = (torch.randperm(length, generator=generator) for length in size)
    permuted = sinkhorn(cost[p][:, q][:, :, r], a[p][:, q], b[p][:, r], epsilon=0.3, rho=rho, iterations=30).plan
    torch.testing.assert_close(permuted, plan[p][:, q][:, :, r], rtol=1e-9, atol=0)
    scaled_rho = tuple(None if v is None else 5 * v for v in rho) if isinstance(rho, tuple) else rho and 5 * rho
    scaled = sinkhorn(5 * cost, a, b, epsilon=1.5, rho=scaled_rho, iterations=30).plan  # type: ignore[arg-type]
    torch.testing.assert_close(scaled, plan, rtol=1e-9, atol=0)
    if rho is None:
        torch.testing.assert_close(sinkhorn(cost + 3, a, b, epsilon=0.3, iterations=30).plan, plan, rtol=1e-9, atol=0)


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), size=sizes, rho=rhos, garbage=st.sampled_from([0.0, -3.0, 50.0, 1e4, -1e4]))
def test_padding_does_not_matter(seed: int, size: tuple[int, int, int], rho: Relaxation | None, garbage: float) -> None:
    cost, a, b = random_batch(seed, *size)
    batch, n, m = size
    plan = sinkhorn(cost, a, b, epsilon=0.2, rho=rho, iterations=20).plan
    wide = torch.full((batch, n + 3, m + 2), garbage, dtype=cost.dtype)
    wide[:, 1 : n + 1, 2:] = cost
    wide_a, wide_b = a.new_zeros(batch, n + 3), b.new_zeros(batch, m + 2)
    wide_a[:, 1 : n + 1], wide_b[:, 2:] = a, b
    # ±1e4 / ε is beyond what an exponential can hold: the same plan has to come from the other way of summing.
    result = sinkhorn(wide, wide_a, wide_b, epsilon=0.2, rho=rho, iterations=20)
    torch.testing.assert_close(result.plan[:, 1 : n + 1, 2:], plan, rtol=1e-9, atol=0)
    assert result.plan[:, 0].eq(0).all() and result.plan[:, n + 1 :].eq(0).all() and result.plan[:, :, :2].eq(0).all()
    assert result.residual.isfinite().all()


def test_a_large_rho_tends_to_the_balanced_plan_and_a_small_one_frees_the_columns() -> None:
    cost, a, b = random_batch(4, 3, 12, 4)
    balanced = sinkhorn(cost, a, b, epsilon=0.2, iterations=500)
    errors = [sinkhorn(cost, a, b, epsilon=0.2, rho=rho, iterations=2000).column_error for rho in (1e-4, 0.1, 1, 1e4)]
    for looser, tighter in pairwise(errors):
        assert (tighter < looser).all()
    relaxed = sinkhorn(cost, a, b, epsilon=0.2, rho=1e5, iterations=500)
    torch.testing.assert_close(relaxed.plan, balanced.plan, rtol=1e-4, atol=1e-7)
    free = sinkhorn(cost, a, b, epsilon=0.2, rho=1e-6, iterations=500).plan
    torch.testing.assert_close(free, a[:, :, None] * torch.softmax(-cost / 0.2, 2), rtol=1e-4, atol=1e-7)


def test_rows_are_exact_after_every_iteration_and_errors_shrink() -> None:
    cost, a, b = random_batch(5, 4, 20, 6)
    results = [sinkhorn(cost, a, b, epsilon=0.1, iterations=count) for count in (1, 3, 10, 200)]
    assert all((result.row_error < 1e-12).all() for result in results)
    for early, late in pairwise(results):
        assert (late.residual < early.residual).all()
    assert not results[0].converged.any() and results[-1].converged.all()


def test_float32_stays_finite_where_exponentials_would_not() -> None:
    cost, a, b = random_batch(6, 2, 30, 8, torch.float32)
    for scale in (20.0, 100.0, 1000.0):  # C/ε up to 800, 4000 and 40000
        result = sinkhorn(scale * cost, a, b, epsilon=0.05, rho=0.1, iterations=50)
        assert result.plan.isfinite().all() and result.residual.isfinite().all()
        # Potentials as large as C/ε carry that many units in the last place.
        torch.testing.assert_close(result.plan.sum(2), a, rtol=1e-6 * scale / 0.05, atol=0)


@pytest.mark.parametrize("spread", [0.5, 2.9, 3.2])
def test_float32_keeps_its_precision_with_tiny_masses_and_large_spreads(spread: float) -> None:
    cost, a, b = random_batch(13, 3, 12, 5)
    cost = cost * spread / 2
    a[:, 0], b[:, 0] = 1e-20, 1e-30
    a, b = a / a.sum(1, keepdim=True), b / b.sum(1, keepdim=True)
    for rho in (None, 0.5):
        expected = sinkhorn(cost, a, b, epsilon=0.05, rho=rho, iterations=300).plan
        single = sinkhorn(cost.float(), a.float(), b.float(), epsilon=0.05, rho=rho, iterations=300).plan
        torch.testing.assert_close(single[expected > 1e-37], expected[expected > 1e-37].float(), rtol=2e-3, atol=0)


def test_half_precision_costs_are_solved_in_float32() -> None:
    cost, a, b = random_batch(7, 2, 9, 4, torch.float32)
    result = sinkhorn(cost.bfloat16(), a, b, epsilon=0.2)
    expected = sinkhorn(cost.bfloat16().float(), a, b, epsilon=0.2)
    assert result.plan.dtype == torch.float32
    torch.testing.assert_close(result.plan, expected.plan, rtol=0, atol=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = sinkhorn(cost, a, b, epsilon=0.2)
    torch.testing.assert_close(inside.plan, sinkhorn(cost, a, b, epsilon=0.2).plan, rtol=0, atol=0)


# Gradients


@pytest.mark.parametrize("rho", [None, 0.4, (0.3, 0.2)], ids=str)
@pytest.mark.parametrize("outlier", [1.0, 900.0], ids=["exponentials", "log-sum-exp"])
def test_gradients_with_padding(rho: Relaxation | None, outlier: float) -> None:
    generator = torch.Generator().manual_seed(8)
    cost = torch.rand(2, 5, 4, generator=generator, dtype=torch.float64)
    cost[0, 4, 3] = outlier  # 900 / ε leaves the range of exponentials
    hidden = [torch.randn(2, size, generator=generator, dtype=torch.float64) for size in (5, 4)]
    holes = [torch.zeros(2, size, dtype=torch.bool) for size in (5, 4)]
    holes[0][0, 4], holes[0][1, 1], holes[1][0, 3], holes[1][1, 0] = True, True, True, True

    def plan(cost: Tensor, *logits: Tensor) -> Tensor:
        a, b = (x.masked_fill(hole, -torch.inf).softmax(1) for x, hole in zip(logits, holes, strict=True))
        return sinkhorn(cost, a, b, epsilon=0.5, rho=rho, iterations=4).plan

    inputs = [value.requires_grad_() for value in (cost, *hidden)]
    assert torch.autograd.gradcheck(plan, inputs)
    gradient = torch.autograd.grad(plan(*inputs).square().sum(), inputs[0])[0]
    assert gradient[0, 4].eq(0).all() and gradient[1, :, 0].eq(0).all() and gradient[0, :4, :3].abs().sum() > 0


# Wrong use


def test_what_is_not_finite_is_named() -> None:
    cost, a, b = random_batch(10, 9, 4, 3)
    cost[2, 0, 0], cost[5, 1, 1], a[7, 0] = math.nan, math.inf, math.nan
    with pytest.raises(UsageError, match=r"non-finite.*problem 2, 5, 7 of a batch of 9"):
        sinkhorn(cost, a, b, epsilon=0.1)
    cost[:] = math.nan
    with pytest.raises(UsageError, match=r"problem 0, 1, 2, 3, 4 and 4 more"):
        sinkhorn(cost, b.new_full((9, 4), 0.25), b, epsilon=0.1)


def test_masses_have_to_be_distributions() -> None:
    cost, a, b = random_batch(11, 3, 4, 3)
    with pytest.raises(UsageError, match=r"sum to 1 .* problem 0, 1, 2"):
        sinkhorn(cost, 2 * a, b, epsilon=0.1)
    b[1, 0], b[1, 1] = -0.1, b[1, 0] + b[1, 1] + 0.1
    with pytest.raises(UsageError, match=r"non-negative .* problem 1 of"):
        sinkhorn(cost, a, b, epsilon=0.1)
    with pytest.raises(UsageError, match="problem 0"):
        sinkhorn(cost[:1], torch.zeros(1, 4), torch.ones(1, 3) / 3, epsilon=0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epsilon": 0.0}, "epsilon should be above 0"),
        ({"epsilon": math.nan}, "epsilon should be above 0"),
        ({"rho": 0.0}, "rho should be"),
        ({"rho": (0.1, -1.0)}, "rho should be"),
        ({"rho": (0.1, 0.1, 0.1)}, "rho should be"),
        ({"iterations": 0}, "iterations should be at least 1"),
        ({"a": torch.ones(2, 3) / 3}, r"received \(2, 4, 3\), \(2, 3\) and \(2, 3\)"),
        ({"cost": torch.zeros(4, 3)}, r"cost should be \(B, n, m\)"),
        ({"cost": torch.zeros(2, 0, 3), "a": torch.zeros(2, 0)}, r"received \(2, 0, 3\)"),
    ],
)
def test_wrong_arguments(change: dict[str, Any], message: str) -> None:
    cost, a, b = random_batch(12, 2, 4, 3)
    arguments: dict[str, Any] = {"cost": cost, "a": a, "b": b, "epsilon": 0.1} | change
    with pytest.raises(UsageError, match=message):
        sinkhorn(arguments.pop("cost"), arguments.pop("a"), arguments.pop("b"), **arguments)


def test_an_empty_batch_has_an_empty_plan() -> None:
    result = sinkhorn(torch.zeros(0, 4, 3), torch.zeros(0, 4), torch.zeros(0, 3), epsilon=0.1)
    assert result.plan.shape == (0, 4, 3) and result.converged.shape == (0,)
