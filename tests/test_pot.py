"""What must hold for POT: ranges, masses, padding, permutations, absent classes, gradients, errors."""

import re
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pot_problems import Problem, random_problem
from tag2mask.core.errors import UsageError
from tag2mask.ot import kmeans as clustering
from tag2mask.pot import PotSettings, TransportCams, normalised_cams, transport_cams
from tag2mask.pot import smoothing as affinity
from tag2mask.pot.activation import regenerate
from waiting import waits

DEFAULT = PotSettings()
VARIANTS = {
    "default": DEFAULT,
    "paper": DEFAULT.paper(),
    "single": DEFAULT.single_prototype(),
    "plain": DEFAULT.plain_clusters(),
    "one-cluster": replace(DEFAULT, num_prototypes=1, epsilon=0.5),
    "five-clusters": replace(DEFAULT, num_prototypes=5, affinity=None, normalise_over="class"),
}
variants = pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS.keys())


def solve(problem: Problem, pot: PotSettings = DEFAULT, **changes: Any) -> TransportCams:
    """POT of the problem."""
    given = {"valid": problem.valid} | changes
    return transport_cams(problem.features, problem.cams, problem.tags, pot, **given)


def close(actual: torch.Tensor, expected: torch.Tensor, atol: float = 1e-5) -> None:
    """Equal up to the order of summation in float32."""
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


# Shapes, ranges and masses


@settings(max_examples=30)
@given(
    seed=st.integers(0, 10_000),
    tag_counts=st.lists(st.integers(0, 4), min_size=1, max_size=4).map(tuple),
    variant=st.sampled_from(list(VARIANTS.values())),
)
def test_shapes_ranges_and_masses(seed: int, tag_counts: tuple[int, ...], variant: PotSettings) -> None:
    problem = random_problem(seed, tag_counts)
    result = solve(problem, variant)
    images, classes, height, width = problem.cams.shape
    slots, clusters = 1 + max(tag_counts), variant.num_prototypes
    assert result.cams.shape == (images, classes + 1, height, width) and result.cams.dtype == torch.float32
    assert result.maps.shape == result.posterior.shape == (images, slots, height, width)
    assert result.plan.shape == (images, height * width, slots * clusters)
    assert result.prototypes.shape == (images, slots, clusters, problem.features.shape[1])
    assert result.class_prototypes.shape == (images, slots, problem.features.shape[1])
    assert result.cams.isfinite().all() and result.cams.amin() >= 0 and result.cams.amax() <= 1

    absent = ~torch.cat([torch.ones(images, 1, dtype=torch.bool), problem.tags], 1)
    assert result.cams[absent].eq(0).all() and result.cams[(~problem.valid)[:, None].expand_as(result.cams)].eq(0).all()
    # Every present class, or the strongest of an image, reaches (almost) 1 somewhere.
    peaks = result.maps.amax((2, 3))
    assert (peaks[result.slots.used] > 0).all() and (peaks.amax(1) > 0.99).all()
    if variant.normalise_over == "class":
        assert (peaks[result.slots.used] > 0.99).all()
    assert result.maps[~result.slots.used].eq(0).all()

    inside = problem.valid.flatten(1)
    posterior = result.posterior.flatten(2).sum(1)
    close(posterior, inside.float())
    close(result.plan.sum(2), inside / inside.sum(1, keepdim=True))
    assert result.plan[~inside].eq(0).all()
    taken = torch.where(inside, result.plan.argmax(2), -1).view_as(problem.valid)
    assert result.allocation.equal(taken)


def test_regenerated_prototypes_have_unit_length_even_with_hardly_any_mass() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.nn.functional.normalize(torch.randn(1, 6, 4, generator=generator), dim=2)
    plan = torch.rand(1, 6, 3, generator=generator) * torch.tensor([1.0, 1e-30, 0.0])
    old = torch.nn.functional.normalize(torch.randn(1, 1, 3, 4, generator=generator), dim=3)
    new = regenerate(features, plan, old, hard=False)
    close(new.norm(dim=3), torch.ones(1, 1, 3))
    assert new[:, :, 2].equal(old[:, :, 2])  # nothing is allocated to it


# Images with few pixels, and without tags


def test_fewer_pixels_than_seeds() -> None:
    problem = random_problem(2, (2, 1), grid=(2, 2), ragged=False)
    problem.valid[0, 0] = False
    problem.valid[0, 1, 0] = False  # one pixel is left
    result = solve(problem, replace(DEFAULT, normalise_over="class"))
    assert result.partition.seeds.sum(2)[result.slots.used].tolist()[0] == 1
    assert result.cams.isfinite().all() and result.cams[0, 0, 1, 1] > 0.9


def test_a_tag_that_is_nowhere_is_dropped_and_reported() -> None:
    problem = random_problem(4, (3, 1))
    gone = problem.tags[0].nonzero()[1, 0]
    problem.cams[0, gone] = 0
    result = solve(problem)
    assert result.slots.dropped.nonzero().tolist() == [[0, gone.item()]]
    assert result.cams[0, gone + 1].eq(0).all() and not result.slots.used[0, 2]
    assert result.partition.seeds[0, 2].sum() == 0 and result.plan[0].unflatten(1, (4, -1))[:, 2].eq(0).all()
    without = Problem(problem.features, problem.cams, problem.tags.clone(), problem.valid)
    without.tags[0, gone] = False
    close(solve(without).cams, result.cams)


def test_an_image_without_tags_is_background() -> None:
    problem = random_problem(5, (0, 0))
    for pot in VARIANTS.values():
        result = solve(problem, pot)
        assert result.cams.shape == (2, 6, 8, 9) and result.cams[:, 1:].eq(0).all()
        close(result.posterior[:, 0], problem.valid.float())
    no_classes = transport_cams(problem.features, problem.cams[:, :0], problem.tags[:, :0], valid=problem.valid)
    close(no_classes.cams[:, 0], solve(problem).cams[:, 0])


def test_wide_features_are_computed_in_as_many_coordinates_as_pixels() -> None:
    problem = random_problem(channels=200)  # of 72 pixels
    wide = problem.features.clone().requires_grad_()  # features that need a gradient keep their channels
    expected = transport_cams(wide, problem.cams, problem.tags, DEFAULT, valid=problem.valid)
    found = transport_cams(problem.features, problem.cams, problem.tags, DEFAULT, valid=problem.valid)
    assert (expected.prototypes.shape[3], found.prototypes.shape[3]) == (200, 72)
    torch.testing.assert_close(found.cams, expected.cams, atol=1e-4, rtol=0)


def test_wide_features_of_length_zero() -> None:
    problem = random_problem(tag_counts=(2,), ragged=False)
    found = transport_cams(torch.zeros(1, 300, 8, 9), problem.cams, problem.tags, DEFAULT)
    close(found.cams, transport_cams(torch.zeros(1, 5, 8, 9), problem.cams, problem.tags, DEFAULT).cams)


def test_an_image_does_not_depend_on_one_that_has_no_coordinates() -> None:
    problem = random_problem(tag_counts=(3, 2), channels=200, ragged=False)
    alone = transport_cams(problem.features[:1], problem.cams[:1], problem.tags[:1], DEFAULT)
    problem.features[1, :, :4] = 0  # cosines of zeros have no Cholesky factor
    both = transport_cams(problem.features, problem.cams, problem.tags, DEFAULT)
    assert (alone.prototypes.shape[3], both.prototypes.shape[3]) == (72, 200)
    torch.testing.assert_close(both.cams[:1], alone.cams, atol=1e-5, rtol=0)


def test_wide_features_keep_their_channels_where_rounding_prevents_coordinates(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = random_problem(channels=200)
    expected = transport_cams(problem.features, problem.cams, problem.tags, DEFAULT, valid=problem.valid).cams
    monkeypatch.setattr(affinity, "_JITTER", -2.0)  # no matrix with a negative diagonal has a factor
    found = transport_cams(problem.features, problem.cams, problem.tags, DEFAULT, valid=problem.valid)
    assert found.prototypes.shape[3] == 200
    torch.testing.assert_close(found.cams, expected, atol=1e-4, rtol=0)


def test_self_affinity_in_blocks_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = random_problem(21, (2, 1, 3))
    whole = solve(problem)
    monkeypatch.setattr(affinity, "_LARGEST_BLOCK", 3 * 72 * 7)  # seven rows at a time
    blocks = solve(problem)
    close(blocks.slots.base, whole.slots.base)
    close(blocks.cams, whole.cams)


# What must not matter


@variants
def test_padding_does_not_matter(variant: PotSettings) -> None:
    problem = random_problem(9, (2, 1, 0, 3))
    result = solve(problem, variant)
    images, channels, height, width = problem.features.shape
    features = 50 * torch.randn(images, channels, height + 3, width + 5)
    cams, valid = torch.rand(images, 5, height + 3, width + 5), torch.zeros(images, height + 3, width + 5).bool()
    for small, large in ((problem.features, features), (problem.cams, cams), (problem.valid, valid)):
        large[..., :height, :width] = small
    cams[:, :, -1, -1] = torch.nan
    padded = solve(Problem(features, cams, problem.tags, valid), variant)
    close(padded.cams[:, :, :height, :width], result.cams)
    close(padded.prototypes, result.prototypes)
    assert padded.cams[:, :, height:].eq(0).all() and padded.cams[..., width:].eq(0).all()
    assert padded.allocation[:, :height, :width].equal(result.allocation)


@variants
def test_batch_mates_and_their_order_do_not_matter(variant: PotSettings) -> None:
    problem = random_problem(10, (2, 1, 0, 3))
    result = solve(problem, variant)
    order = torch.tensor([2, 3, 1, 0])
    close(solve(problem.images(order), variant).cams, result.cams[order])
    for image in range(4):
        close(solve(problem.images(slice(image, image + 1)), variant).cams, result.cams[image : image + 1])


@variants
def test_the_order_of_classes_does_not_matter(variant: PotSettings) -> None:
    problem = random_problem(11, (2, 4, 1))
    order = torch.tensor([3, 0, 4, 2, 1])
    permuted = Problem(problem.features, problem.cams[:, order], problem.tags[:, order], problem.valid)
    expected = solve(problem, variant).cams
    close(solve(permuted, variant).cams, torch.cat([expected[:, :1], expected[:, 1:][:, order]], 1))


@variants
def test_absent_classes_cost_nothing_and_change_nothing(variant: PotSettings) -> None:
    problem, variant = random_problem(12, (2, 1, 3)), replace(variant, background="tags")
    result = solve(problem, variant)
    garbage = torch.full((3, 200, 8, 9), torch.nan)
    more = Problem(
        problem.features,
        torch.cat([problem.cams, garbage], 1),
        torch.cat([problem.tags, torch.zeros(3, 200, dtype=torch.bool)], 1),
        problem.valid,
    )
    many = solve(more, variant)
    assert many.plan.shape == result.plan.shape == (3, 72, (1 + 3) * variant.num_prototypes)
    assert many.prototypes.equal(result.prototypes) and many.plan.equal(result.plan)
    assert many.cams.shape[1] == 206 and many.cams[:, :6].equal(result.cams) and many.cams[:, 6:].eq(0).all()


def test_the_length_of_features_does_not_matter_and_half_precision_is_solved_in_float32() -> None:
    problem = random_problem(13, (2, 1))
    result = solve(problem)
    lengths = 0.1 + 9 * torch.rand(2, 1, 8, 9)
    close(solve(Problem(lengths * problem.features, problem.cams, problem.tags, problem.valid)).cams, result.cams)
    half = Problem(problem.features.bfloat16(), problem.cams, problem.tags, problem.valid)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = solve(half)
    outside = solve(Problem(half.features.float(), problem.cams, problem.tags, problem.valid))
    assert inside.cams.dtype == inside.plan.dtype == inside.prototypes.dtype == torch.float32
    assert inside.cams.equal(outside.cams)
    close(inside.cams, result.cams, 0.1)


def test_the_result_is_repeatable_and_a_generator_chooses_the_seeds() -> None:
    problem = random_problem(14, (2, 2, 3))
    assert solve(problem).cams.equal(solve(problem).cams)
    plain = DEFAULT.plain_clusters()
    drawn = [solve(problem, plain, generator=torch.Generator().manual_seed(s)).cams for s in (0, 0, 1)]
    assert drawn[0].equal(drawn[1]) and not drawn[0].equal(drawn[2])


def test_waiting_for_an_accelerator_does_not_depend_on_iterations_and_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clustering, "_one_by_one", clustering._together)  # as on an accelerator
    problem = random_problem(16, (2, 1, 3))
    few, many = (waits(partial(solve, problem, replace(DEFAULT, iterations=count))) for count in (1, 50))
    assert 0 < few == many == waits(partial(solve, random_problem(16, (2, 1, 3) * 4)))


# Gradients of the CAMs


@pytest.mark.parametrize("clusters", [1, 3])
@pytest.mark.parametrize("scaling", ["image", "class"])
def test_gradients_reach_the_features_alone_and_are_those_of_fixed_plans(clusters: int, scaling: Any) -> None:
    problem = random_problem(17, (2, 0, 1))
    pot = replace(DEFAULT, num_prototypes=clusters, normalise_over=scaling, affinity=None)
    features, cams = problem.features.clone().requires_grad_(), problem.cams.clone().requires_grad_()
    result = solve(Problem(features, cams, problem.tags, problem.valid), pot)
    for fixed in (result.plan, result.posterior, result.slots.used, result.partition.similarity):
        assert not fixed.requires_grad
    weights = torch.randn_like(result.cams)
    features_gradient, cams_gradient = torch.autograd.grad(
        (weights * result.cams).sum(), [features, cams], allow_unused=True
    )
    assert cams_gradient is None

    # The same by hand: similarity to regenerated prototypes, with the plan and the maxima as constants.
    again = problem.features.clone().requires_grad_()
    f = torch.nn.functional.normalize(again, dim=1).flatten(2)  # (N, D, n)
    plan = result.plan.detach()
    regenerated = torch.nn.functional.normalize(plan.transpose(1, 2) @ f.transpose(1, 2), dim=2)
    posterior = (plan / plan.sum(2, keepdim=True).clamp_min(1e-30)).transpose(1, 2)
    maps = (posterior * (regenerated @ f).relu()).unflatten(1, (-1, clusters)).sum(2)
    over = 2 if scaling == "class" else (1, 2)
    maps = maps / (maps.detach().amax(over, keepdim=True) + 1e-5)
    close(maps.view_as(result.maps), result.maps)
    full = torch.zeros_like(result.cams).scatter_add(
        1, result.slots.ids[..., None, None].expand_as(result.maps), maps.view_as(result.maps)
    )
    (expected,) = torch.autograd.grad((weights * full).sum(), again)
    torch.testing.assert_close(features_gradient, expected, rtol=1e-3, atol=1e-5)
    assert features_gradient[~problem.valid[:, None].expand_as(features)].eq(0).all()
    assert features_gradient.abs().amax((1, 2, 3)).gt(0).all()


def test_gradients_of_unused_and_empty_prototypes_are_finite() -> None:
    problem = random_problem(18, (3, 0, 1))
    features = problem.features.clone()
    features[:, :, 0, 0] = 0  # a pixel without a direction
    features = features.requires_grad_()
    for pot in (*VARIANTS.values(), replace(DEFAULT, num_prototypes=8, allocate="hard")):
        result = solve(Problem(features, problem.cams, problem.tags, problem.valid), pot)
        (gradient,) = torch.autograd.grad(result.cams.square().sum(), features)
        assert gradient.isfinite().all() and gradient.abs().sum() > 0


# Base CAMs


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000), scale=st.floats(0.1, 100))
def test_normalised_cams(seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    activations = scale * torch.randn(3, 4, 5, 6, generator=generator)
    valid = torch.rand(3, 5, 6, generator=generator) > 0.5
    activations.masked_fill_(~valid[:, None], torch.nan)  # padding may hold anything
    cams = normalised_cams(activations, valid)
    for image in range(3):
        for tag in range(4):
            map_ = activations[image, tag].nan_to_num(0).relu()
            close(cams[image, tag], map_ / (map_.max() + 1e-5), 1e-6)


def test_no_gradient_through_the_maximum_of_a_cam() -> None:
    activations = torch.tensor([[[[1.0, 4.0, -2.0]]]], requires_grad=True)
    normalised_cams(activations).sum().backward()
    close(activations.grad, torch.tensor([[[[1.0, 1.0, 0.0]]]]) / (4 + 1e-5))


# Wrong use


def test_images_with_values_that_cannot_be_are_named() -> None:
    problem = random_problem(19, (1, 2, 1, 1))
    for pot in (DEFAULT, DEFAULT.single_prototype()):
        features = problem.features.clone()
        features[1, 3, 0, 0], features[3, 0, -1, -1] = torch.nan, torch.inf  # in padding too: it would spread
        with pytest.raises(UsageError, match="non-finite or overflowing features: image 1, 3 of a batch of 4"):
            solve(Problem(features, problem.cams, problem.tags, problem.valid), pot)
    cams = problem.cams.clone()
    cams[2, problem.tags[2], 0, 0] = 1.5
    with pytest.raises(UsageError, match=r"cams should lie in \[0, 1\] .*normalised_cams.* image 2 of"):
        solve(Problem(problem.features, cams, problem.tags, problem.valid))
    cams[2, problem.tags[2], 0, 0] = torch.nan
    with pytest.raises(UsageError, match=r"cams should lie in .* image 2 of"):
        solve(Problem(problem.features, cams, problem.tags, problem.valid))
    valid = problem.valid.clone()
    valid[0] = False
    with pytest.raises(UsageError, match="no valid pixel: image 0 of"):
        solve(Problem(problem.features, problem.cams, problem.tags, valid))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cams": torch.zeros(2, 5, 7, 9)}, "share a grid"),
        ({"cams": torch.zeros(3, 5, 8, 9)}, "received (2, 12, 8, 9), (3, 5, 8, 9) and (2, 5)"),
        ({"tags": torch.zeros(2, 4).bool()}, "received (2, 12, 8, 9), (2, 5, 8, 9) and (2, 4)"),
        ({"tags": torch.zeros(2, 5)}, "tags should be bool"),
        ({"valid": torch.ones(2, 8, 9)}, "valid should be bool (N, h, w), received torch.float32"),
        ({"valid": torch.ones(2, 9, 8).bool()}, "valid should be bool"),
        ({"features": torch.zeros(2, 12, 0, 9), "cams": torch.zeros(2, 5, 0, 9)}, "grid that is not empty"),
    ],
)
def test_wrong_shapes(change: dict[str, Any], message: str) -> None:
    problem = random_problem(0, (1, 1))
    arguments = {name: getattr(problem, name) for name in ("features", "cams", "tags", "valid")} | change
    if "valid" not in change:
        arguments["valid"] = None
    with pytest.raises(UsageError, match=re.escape(message)):
        transport_cams(**arguments)


def test_settings_out_of_range_are_reported_together() -> None:
    with pytest.raises(UsageError) as caught:
        PotSettings(num_prototypes=0, affinity=0, epsilon=0, cluster_reduction="mean")  # type: ignore[arg-type]
    for name in ("num_prototypes", "affinity", "epsilon"):
        assert f"{name} should" in str(caught.value)
    assert "cluster_reduction should be one of 'sum', 'max', received 'mean'" in str(caught.value)
    assert "column_marginal" not in str(caught.value)
