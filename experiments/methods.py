"""The lists of settings: the final comparison, leave-one-out, and the search, around the settings of a run."""

from collections.abc import Iterator
from dataclasses import replace

from compare import Method, classifier, pot
from tag2mask.pot import PotSettings

THRESHOLDS = [(fore, back) for fore in (0.3, 0.5, 0.6, 0.7, 0.8, 0.9) for back in (0.05, 0.1, 0.15, 0.2, 0.25, 0.3)]


def final(own: PotSettings) -> list[Method]:
    """The methods to compare."""
    return [classifier(0.4), Method("single prototype", own.single_prototype()), Method("POT", own)]


def leave_one_out(own: PotSettings) -> list[Method]:
    """POT with one piece removed or as published; the last three change several."""
    return [
        Method("POT", own),
        pot("without self-affinity", own, affinity=None),
        pot("one prototype per class (K = 1)", own, num_prototypes=1),
        pot("columns: similarity, as published", own, column_marginal="similarity"),
        pot("columns: uniform", own, column_marginal="uniform"),
        pot("ε in cosine distance (0.2)", own, epsilon=0.2, epsilon_unit="cosine"),
        pot("cluster prototypes kept (no regeneration)", own, regenerate=False),
        pot("each class's map scaled by its own maximum", own, normalise_over="class"),
        pot("seeds by argmax, as published", own, seed_rule="argmax"),
        pot("activation without the plan", own, reweight="none", cluster_reduction="max", normalise_over="class"),
        Method("without a plan: clusters alone", own.plain_clusters()),
        pot("`paper`, with the background over the tags", own.paper(), background="tags"),
    ]


def search(own: PotSettings) -> Iterator[tuple[str, Method]]:
    """(axis, method) of the settings around those of a run; the two simpler methods first."""
    for percent in range(20, 65, 5):
        yield "classifier", classifier(percent / 100)
    for fore, back in THRESHOLDS:
        seeds = replace(own, foreground_threshold=fore, background_threshold=back)
        yield "single prototype, seeds", Method(f"{fore:g}, {back:g}", seeds.single_prototype())
    yield "single prototype, self-affinity", Method("off", replace(own.single_prototype(), affinity=None))
    for fore, back in THRESHOLDS:
        yield "POT, seeds", pot(f"{fore:g}, {back:g}", own, foreground_threshold=fore, background_threshold=back)
    for sharpness, radius in ((5, 5), (10, 3), (10, 8), (20, 5)):
        name = f"β = {sharpness}, σ = {radius}"
        yield "POT, self-affinity", pot(name, own, affinity=float(sharpness), affinity_radius=float(radius))
    for clusters in (1, 2, 3, 5):
        for epsilon in (0.5, 0.75, 1.0, 1.3):
            name = f"K = {clusters}, ε = {epsilon:g}"
            yield "POT, K and ε", pot(name, own, num_prototypes=clusters, epsilon=epsilon)
