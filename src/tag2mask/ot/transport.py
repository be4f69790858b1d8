"""Entropic optimal transport in the log domain: balanced, semi-relaxed and unbalanced, many problems at once.

Solves, for every problem of a batch,

    min_T ⟨T, C⟩ + ε Σ_ij T_ij (log T_ij − 1)   subject to   T 1 = a,  Tᵀ 1 = b          (balanced)

where a marginal constraint may be replaced by ρ KL(marginal ‖ target). The solution is T = diag(e^f) e^{−C/ε}
diag(e^g), and the dual potentials are found by alternating updates (Sinkhorn). Source: docs/method.md, part
II; Cuturi 2013 for the balanced and Chizat et al. 2018 for the relaxed problem. In PythonOT the relaxed problem is
``sinkhorn_unbalanced(..., reg_type="entropy")``.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tag2mask.core.errors import UsageError, first_five

Relaxation = float | tuple[float | None, float | None]
"""ρ of the column marginal, or a pair (rows, columns); None keeps that marginal exact."""


@dataclass(frozen=True)
class TransportPlan:
    """The solution of B transport problems.

    Attributes:
        plan: (B, n, m), non-negative; 0 in padded rows and columns.
        row_error: (B,), L1 norm of the row marginal minus ``a``.
        column_error: (B,), L1 norm of the column marginal minus ``b``; for a relaxed marginal, the size of the
            relaxation.
        residual: (B,), L1 distance of both marginals from those of the optimum given the potentials, a·e^{−ε f/ρ} and
            b·e^{−ε g/ρ}, which are a and b where the marginal is exact. 0 at the solution.
        converged: (B,) bool, residual at most the tolerance.
        iterations: number of updates of both potentials.
        row_potential: (B, n), f; −inf in padding.
        column_potential: (B, m), g; −inf in padding.
    """

    plan: Tensor
    row_error: Tensor
    column_error: Tensor
    residual: Tensor
    converged: Tensor
    iterations: int
    row_potential: Tensor
    column_potential: Tensor


def sinkhorn(
    cost: Tensor,
    a: Tensor,
    b: Tensor,
    *,
    epsilon: float,
    rho: Relaxation | None = None,
    iterations: int = 100,
    tolerance: float = 1e-3,
) -> TransportPlan:
    """Solve B entropic transport problems with a fixed budget of iterations.

    The loop does not wait for the device and does not stop at convergence; the errors are reported. Gradients flow
    through all iterations into ``cost``, ``a`` and ``b``.

    Args:
        cost: (B, n, m), finite.
        a: (B, n), row masses, non-negative, each row of the tensor summing to 1; a zero is padding and gets no mass.
        b: (B, m), column masses, likewise.
        epsilon: entropic regularisation ε > 0, in units of ``cost``.
        rho: None for the balanced problem; a number ρ > 0 relaxes the column marginal to ρ KL(Tᵀ1 ‖ b); a pair
            relaxes (rows, columns), and None in it keeps that side exact.
        iterations: updates of both potentials, at least 1; the row update comes last.
        tolerance: bound on `TransportPlan.residual` for a problem to count as converged.

    Returns:
        the plan in the dtype of ``cost`` (float32 at least), its errors and potentials.

    Raises:
        UsageError: shapes that do not fit, an argument out of range, or non-finite, negative or unnormalised input.
    """
    row_power, column_power = _exponents(epsilon, rho)
    if iterations < 1:
        raise UsageError(f"iterations should be at least 1, received {iterations}")
    cost = cost if cost.dtype == torch.float64 else cost.float()
    a, b = a.to(cost.dtype), b.to(cost.dtype)
    # Below this range of costs, e^{−C/ε} can be computed once for all iterations without a loss of relevant terms.
    limit = -0.7 * epsilon * math.log(torch.finfo(cost.dtype).tiny)
    moderate = _checked(cost, a, b, limit)
    log_a, log_b = _log_mass(a), _log_mass(b)  # (B, n), (B, m)
    shift = cost.detach().amin((1, 2), keepdim=True)  # (B, 1, 1)
    log_kernel = (shift - cost) / epsilon  # (B, n, m), at most 0
    kernel = log_kernel.exp() if moderate else None
    constant = (shift / epsilon)[:, 0]  # (B, 1), the effect of the shift on every log-sum
    f = torch.zeros_like(log_a).masked_fill(a == 0, -torch.inf)
    g = torch.zeros_like(log_b)
    for _ in range(iterations):
        g = column_power * (log_b + constant - _log_sum(log_kernel, kernel, f[:, :, None], dim=1))
        f = row_power * (log_a + constant - _log_sum(log_kernel, kernel, g[:, None, :], dim=2))
    plan = torch.exp(f[:, :, None] + log_kernel + g[:, None, :] - constant[:, :, None])
    return _report(plan, a, b, f, g, row_power, column_power, tolerance, iterations)


def _log_sum(log_kernel: Tensor, kernel: Tensor | None, potential: Tensor, dim: int) -> Tensor:
    """log Σ e^{log_kernel + potential} over ``dim``; with ``kernel``, only the potential is exponentiated."""
    if kernel is None:
        return torch.logsumexp(log_kernel + potential, dim=dim)
    peak = potential.detach().amax(dim, keepdim=True)  # (B, 1, 1)
    return (kernel * (potential - peak).exp()).sum(dim).log() + peak[:, 0]


def _exponents(epsilon: float, rho: Relaxation | None) -> tuple[float, float]:
    """ρ / (ρ + ε) for rows and columns: the power of each scaling update, 1 where the marginal is exact."""
    if not epsilon > 0:
        raise UsageError(f"epsilon should be above 0, received {epsilon}; 0.05 to 1 suits costs between 0 and 2")
    pair = rho if isinstance(rho, tuple) else (None, rho)
    if len(pair) != 2 or any(value is not None and not value > 0 for value in pair):
        raise UsageError(f"rho should be None, a number above 0 or a pair of those, received {rho}")
    row, column = (1.0 if value is None else value / (value + epsilon) for value in pair)
    return row, column


def _checked(cost: Tensor, a: Tensor, b: Tensor, limit: float) -> bool:
    """Refuse input without a plan; return whether the costs of each problem lie within ``limit``. Reads the device."""
    if cost.ndim != 3 or a.shape != cost.shape[:2] or b.shape != (cost.shape[0], cost.shape[2]) or 0 in cost.shape[1:]:
        raise UsageError(
            "cost should be (B, n, m) with a (B, n) and b (B, m), "
            f"received {tuple(cost.shape)}, {tuple(a.shape)} and {tuple(b.shape)}"
        )
    finite = cost.isfinite().flatten(1).all(1) & a.isfinite().all(1) & b.isfinite().all(1)
    masses = [(mass >= 0).all(1) & ((mass.sum(1) - 1).abs() <= 1e-3) for mass in (a, b)]
    spread = cost.detach().amax((1, 2)) - cost.detach().amin((1, 2))
    checks = torch.stack([finite, masses[0] & masses[1], spread <= limit]).cpu()
    rules = ("non-finite values in cost, a or b", "a and b should be non-negative and sum to 1 in each problem")
    for good, rule in zip(checks[:2], rules, strict=True):
        if not good.all():
            raise UsageError(
                f"{rule}: problem {first_five((~good).nonzero().flatten().tolist())} of a batch of {len(cost)}"
            )
    return bool(checks[2].all())


def _log_mass(mass: Tensor) -> Tensor:
    """log(mass), −inf at zeros, with a gradient of 0 there."""
    empty = mass == 0
    return mass.masked_fill(empty, 1.0).log().masked_fill(empty, -torch.inf)


def _report(
    plan: Tensor,
    a: Tensor,
    b: Tensor,
    f: Tensor,
    g: Tensor,
    row_power: float,
    column_power: float,
    tolerance: float,
    iterations: int,
) -> TransportPlan:
    """The plan with the distances of its marginals from the targets and from those of the optimum."""
    rows, columns = plan.detach().sum(2), plan.detach().sum(1)
    # At the optimum f = p (log a − LSE) with p = ρ/(ρ+ε), so the row marginal e^{f + LSE} is a·e^{f (1 − 1/p)};
    # columns likewise.
    residual = torch.zeros_like(rows[:, 0])
    for marginal, mass, potential, power in ((rows, a, f, row_power), (columns, b, g, column_power)):
        shift = (potential.detach() * (1 - 1 / power)).masked_fill(mass == 0, 0.0)
        residual = residual + (marginal - mass * shift.exp()).abs().sum(1)
    return TransportPlan(
        plan=plan,
        row_error=(rows - a).abs().sum(1),
        column_error=(columns - b).abs().sum(1),
        residual=residual,
        converged=residual <= tolerance,
        iterations=iterations,
        row_potential=f,
        column_potential=g,
    )
