"""The lists of settings: the final comparison, leave-one-out, and the search."""

from collections.abc import Iterator
from dataclasses import replace

from compare import Method, classifier, pot
from tag2mask.pot import PotSettings

DEFAULT = PotSettings()
SINGLE = DEFAULT.single_prototype()

FINAL = (classifier(0.4), Method("single prototype", SINGLE), Method("POT", DEFAULT))
"""Each with the best settings on the images for tuning."""

LEAVE_ONE_OUT = (
    Method("POT", DEFAULT),
    pot("without self-affinity", affinity=None),
    pot("one prototype per class (K = 1)", num_prototypes=1),
    pot("columns: similarity, as published", column_marginal="similarity"),
    pot("columns: uniform", column_marginal="uniform"),
    pot("ε in cosine distance (0.2)", epsilon=0.2, epsilon_unit="cosine"),
    pot("cluster prototypes kept (no regeneration)", regenerate=False),
    pot("each class's map scaled by its own maximum", normalise_over="class"),
    pot("seeds by argmax, as published", seed_rule="argmax"),
    pot("activation without the plan", reweight="none", cluster_reduction="max", normalise_over="class"),
    Method("without a plan: clusters alone", DEFAULT.plain_clusters()),
    pot("`paper`, with the background over the tags", DEFAULT.paper(), background="tags"),
)
"""POT with one part removed or as published; the last three change several parts."""

THRESHOLDS = [(fore, back) for fore in (0.6, 0.7, 0.8, 0.85, 0.9) for back in (0.1, 0.15, 0.2, 0.25, 0.3)]


def search() -> Iterator[tuple[str, Method]]:
    """(axis, method) of the settings around the default; the two simpler methods first."""
    for percent in range(20, 65, 5):
        yield "classifier", classifier(percent / 100)
    for fore, back in THRESHOLDS:
        seeds = replace(DEFAULT, foreground_threshold=fore, background_threshold=back)
        yield "single prototype, seeds", Method(f"{fore:g}, {back:g}", seeds.single_prototype())
    yield "single prototype, self-affinity", Method("off", replace(SINGLE, affinity=None))
    for fore, back in THRESHOLDS:
        yield "POT, seeds", pot(f"{fore:g}, {back:g}", foreground_threshold=fore, background_threshold=back)
    for sharpness, radius in ((5, 5), (10, 3), (10, 8), (20, 5)):
        name = f"β = {sharpness}, σ = {radius}"
        yield "POT, self-affinity", pot(name, affinity=float(sharpness), affinity_radius=float(radius))
    for clusters in (1, 2, 3, 5):
        for epsilon in (0.5, 0.75, 1.0, 1.3):
            yield "POT, K and ε", pot(f"K = {clusters}, ε = {epsilon:g}", num_prototypes=clusters, epsilon=epsilon)
