"""Fit the estimate of a mask's IoU, and report how well it and single features rank images.

python experiments/confidence.py fit  RUN:SPLIT … [--out models.json]
python experiments/confidence.py rank RUN:SPLIT … [--model models.json]
python experiments/confidence.py across RUN:SPLIT …

RUN is a run folder with ground truth, after `tag2mask confidence RUN --data.split SPLIT`. `fit` prints the constants of
`tag2mask.quality.estimator` and measures nothing, since figures on the fitted images are too good. `rank` measures, on
other images: Spearman over images and over (image, class) pairs, the share of the worst tenth, and calibration by
tenths. `across` prints Spearman by the number of CAM cells of the smallest mask, and measures each run by models
that are fitted on all other runs, for several sets of predictors.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from tag2mask.cli.commands import COMMANDS
from tag2mask.cli.parsing import parse
from tag2mask.core.errors import Tag2maskError, UsageError
from tag2mask.core.files import write_json
from tag2mask.data.images import read_mask
from tag2mask.evaluation import Confusion
from tag2mask.quality.calibration import LEAST, calibration, shared_tenth, spearman, spearman_interval
from tag2mask.quality.estimator import (
    MODELS,
    Model,
    class_estimates,
    estimate_quality,
    mean_estimate,
    model_for,
    predictor,
)
from tag2mask.quality.features import FIELDS, MaskFeatures, stored_features
from tag2mask.runs.dataset import run_images
from tag2mask.runs.progress import StageResult
from tag2mask.runs.run_folder import RunFolder
from tag2mask.stages.confidence import FEATURES, QualityInputs

Floats = npt.NDArray[np.float64]

RIDGE = 1e-3
"""Ridge penalty on the weights of features with unit variance."""


@dataclass(frozen=True)
class MeasuredImage:
    """An image with the features of its mask and its true IoU.

    Attributes:
        evidence: the features.
        iou: float64 (K,), the IoU of each of its classes; NaN for a class in neither mask nor truth.
        miou: the mean over the classes in the truth.
    """

    evidence: MaskFeatures
    iou: Floats
    miou: float


def measured_images(place: str) -> list[MeasuredImage]:
    """The images of RUN:SPLIT that have tags, features of the run's current masks, and ground truth.

    Raises:
        UsageError: there are none, or their features are outdated.
    """
    run, _, split = place.partition(":")
    parsed = parse("confidence", COMMANDS["confidence"], [run, *(["--data.split", split] if split else [])])
    if parsed is None:
        raise UsageError(f"{place} asks for help; name a run folder and a split")
    folder, config = RunFolder(Path(run)), parsed[1].config
    images = run_images(config, folder)
    found, made_by = [], set()
    for item in images.items:
        stored = stored_features(folder / FEATURES / f"{item.id}.npz")
        if stored is None or item.truth is None or not item.truth.is_file():
            continue
        if tuple(stored[0].ids.tolist()) != (0, *item.tags) or not item.tags:
            continue
        own = read_mask(folder / "masks" / f"{item.id}.png")
        confusion = Confusion(len(images.classes) + 1)
        confusion.update(own, read_mask(item.truth, size=(own.shape[0], own.shape[1])))
        made_by.add(shared(stored[1]))
        if not np.isnan(miou := confusion.miou()):
            found.append(MeasuredImage(stored[0], confusion.iou()[stored[0].ids], miou))
    require_same(place, QualityInputs.of(config, folder, images, StageResult("confidence")).made_by, made_by)
    return found


def shared(made_by: str) -> str:
    """The part of a features file's fingerprint that is equal for all images of a run."""
    return str(json.loads(made_by)[0])


def require_same(place: str, own: str, made_by: set[str]) -> None:
    """Raise a `UsageError` unless the features all have the run's current fingerprint."""
    if made_by != {own}:
        what = "features of other masks, CAMs or networks" if made_by else "no features of images with ground truth"
        raise UsageError(f"{place} has {what}; run `tag2mask confidence` for it")


def fit(items: Sequence[MeasuredImage], names: Sequence[str], weights: Floats | None = None) -> Model:
    """Fit a logistic model of the IoU by cross entropy with fractional targets, without classes that have no pixel.

    Args:
        items: the images.
        names: of the predictors.
        weights: of each image; equal by default.

    Raises:
        UsageError: a predictor is missing for some class.
    """
    rows, targets, background, counts = [], [], [], []
    for number, each in enumerate(items):
        keep = (each.evidence.of("share") > 0) & ~np.isnan(each.iou)
        rows.append(np.stack([predictor(each.evidence, name) for name in names], 1)[keep])
        targets.append(each.iou[keep])
        background.append(each.evidence.ids[keep] == 0)
        counts.append(np.full(keep.sum(), 1.0 if weights is None else weights[number]))
    x, y = np.concatenate(rows), np.concatenate(targets)
    own, count = np.concatenate(background), np.concatenate(counts)
    if not len(x) or not np.isfinite(x).all():
        raise UsageError(f"{', '.join(names)}: some are missing for some classes, so there is nothing to fit on")
    mean, deviation = np.average(x, 0, count), x.std(0)
    deviation[deviation == 0] = 1  # constant: its weight stays 0
    design = np.column_stack([np.ones(len(x)), own, (x - mean) / deviation])

    def loss(parameters: Floats) -> tuple[float, Floats]:
        score = design @ parameters
        value = np.average(np.logaddexp(0, score) - y * score, weights=count)
        gradient = design.T @ (count * (1 / (1 + np.exp(-score)) - y)) / count.sum()
        penalised = np.concatenate([[0, 0], parameters[2:]])
        return float(value + RIDGE / 2 * penalised @ penalised), gradient + RIDGE * penalised

    parameters = minimize(loss, np.zeros(design.shape[1]), jac=True, method="L-BFGS-B").x
    slopes = parameters[2:] / deviation
    return Model(
        round(float(parameters[0] - slopes @ mean), 3),
        round(float(parameters[1]), 3),
        dict(zip(names, slopes.round(3).tolist(), strict=True)),
        dict(zip(names, mean.round(3).tolist(), strict=True)),
    )


def report(items: Sequence[MeasuredImage], models: dict[tuple[str, ...], Model]) -> None:
    """Print how well each model and each feature ranks images, without those of unknown confidence."""
    count = len(items)
    items = [each for each in items if not np.isnan(estimate_quality(each.evidence).confidence)]
    miou = np.array([each.miou for each in items])
    print(f"{count - len(items)} of {count} images have unknown confidence; mean mIoU of the others {miou.mean():.3f}")
    known = [each for each in FIELDS if not any(np.isnan(item.evidence.of(each)).any() for item in items)]
    single = {"fewer tags": [-predictor(each.evidence, "more_tags") for each in items]}
    single |= {field: [each.evidence.of(field).astype(np.float64) for each in items] for field in known}
    whole = {name: np.array([each.mean() for each in of_classes]) for name, of_classes in single.items()}
    for sources, model in models.items():
        name = " + ".join(sources)
        if not set(model.weights) - {"more_tags"} <= set(known):
            print(f"{name} left out: some of its features are missing")
            continue
        single[name] = [class_estimates(each.evidence, model) for each in items]
        pairs = zip(items, single[name], strict=True)
        whole[name] = np.array([mean_estimate(each.evidence, own) for each, own in pairs])
    for name, of_classes in single.items():
        confidence = whole[name]
        low, high = spearman_interval(confidence, miou)
        estimate, iou = np.concatenate(of_classes), np.concatenate([each.iou for each in items])
        tagged = np.concatenate([each.evidence.ids != 0 for each in items]) & ~np.isnan(iou)
        print(
            f"{name:18} Spearman {spearman(confidence, miou):.3f} [{low:.3f}, {high:.3f}]  "
            f"worst tenth {shared_tenth(confidence, miou):.2f}  "
            f"pairs {spearman(estimate[tagged], iou[tagged]):.3f}"
        )
    for name in (name for sources in models if (name := " + ".join(sources)) in single):
        tenths = "  ".join(f"{own:.2f}/{true:.2f}" for own, true in calibration(whole[name], miou))
        print(f"calibration of {name}, confidence/mIoU by tenths: {tenths}")
        for other in ("fewer tags", "cam_expected", "network_expected"):
            if other in whole:
                low, high = difference(whole[name], whole[other], miou)
                print(f"  Spearman minus that of {other}: [{low:.3f}, {high:.3f}]")


def difference(first: Floats, second: Floats, miou: Floats, draws: int = 1000) -> tuple[float, float]:
    """The 95 % bootstrap interval of the difference of two rank correlations with the mIoU."""
    generator = np.random.default_rng(0)
    chosen = generator.integers(0, len(miou), (draws, len(miou)))
    found = [spearman(first[own], miou[own]) - spearman(second[own], miou[own]) for own in chosen]
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


def fit_sets(sets: Sequence[Sequence[MeasuredImage]], names: Sequence[str]) -> Model:
    """Fit a model as `fit`; each set of images has equal weight."""
    weights = np.concatenate([np.full(len(own), 1 / max(1, len(own))) for own in sets])
    return fit([each for own in sets for each in own], names, weights)


def fit_all(sets: Sequence[Sequence[MeasuredImage]]) -> dict[tuple[str, ...], Model]:
    """Refit the models of `MODELS` whose predictors are available; each set of images has equal weight."""
    found = {}
    for sources, model in MODELS.items():
        try:
            found[sources] = fit_sets(sets, list(model.weights))
        except UsageError as error:
            print(f"{' + '.join(sources)} left out: {error}", file=sys.stderr)
    return found


LARGEST = 1e9
"""CAM cells of an image without a small mask: none of its tagged classes has pixels."""

PREDICTORS = {
    ("cam",): (
        ("cam_expected", "share", "more_tags"),
        ("cam_expected", "more_tags"),
        ("cam_expected", "cam_overlap", "more_tags"),
    ),
    ("cam", "network"): (
        ("cam_expected", "network_expected", "share", "more_tags"),
        ("cam_expected", "network_expected", "more_tags"),
        ("network_expected", "more_tags"),
        ("network_expected", "network_overlap", "more_tags"),
    ),
}
"""The candidates of `across`; the first are those of `MODELS`, most others do not depend on the size of the mask."""


def across(sets: dict[str, list[MeasuredImage]]) -> None:
    """Print how well the estimate ranks small masks, and how well models rank a run that are fitted on all others."""
    for place, items in sets.items():
        cells = np.array([_fewest_cells(each.evidence) for each in items])
        for low, high in ((0, 4), (4, 8), (8, 16), (16, np.inf), (4, np.inf)):
            own = [each for each, count in zip(items, cells, strict=True) if low <= count < high]
            if len(own) >= LEAST:
                found = _correlation([replace(each, evidence=_without_cells(each.evidence)) for each in own])
                print(f"{place}: {len(own)} images with {low} to {high} cells, Spearman {found:.2f}")
    known = {
        place: [each for each in items if not np.isnan(estimate_quality(each.evidence).confidence)]
        for place, items in sets.items()
    }
    for sources, candidates in PREDICTORS.items():
        last = f"{sources[-1]}_expected"
        if any(np.isnan(each.evidence.of(last)).any() for own in known.values() for each in own):
            continue
        for place, own in known.items():
            run = place.partition(":")[0]
            others = [each for other, each in known.items() if other.partition(":")[0] != run]
            models = {" + ".join(names): fit_sets(others, names) for names in candidates}
            for name, model in ({"MODELS": MODELS[sources]} | models).items():
                print(f"{name}: {place}, {len(own)} images, Spearman {_correlation(own, model):.2f}")


def _correlation(items: Sequence[MeasuredImage], model: Model | None = None) -> float:
    """The rank correlation of images' confidence with their mean IoU, by default with the model of the estimate."""
    estimates = [
        mean_estimate(each.evidence, class_estimates(each.evidence, model or model_for(each.evidence)))
        for each in items
    ]
    return spearman(np.array(estimates), np.array([each.miou for each in items]))


def _fewest_cells(evidence: MaskFeatures) -> float:
    """The CAM cells of the smallest mask of a tagged class with pixels."""
    cells = evidence.of("cells")[(evidence.ids != 0) & (evidence.of("share") > 0)]
    return float(cells.min(initial=LARGEST))


def _without_cells(evidence: MaskFeatures) -> MaskFeatures:
    values = evidence.values.copy()
    values[:, FIELDS.index("cells")] = np.nan
    return replace(evidence, values=values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("fit", "rank", "across"))
    parser.add_argument("places", nargs="+", metavar="RUN:SPLIT")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--model", type=Path)
    known = parser.parse_args()
    try:
        sets = [measured_images(place) for place in known.places]
    except Tag2maskError as error:
        parser.error(str(error))
    if known.what == "fit":
        written = {"+".join(sources): asdict(model) for sources, model in fit_all(sets).items()}
        print(json.dumps(written, indent=2))
        if known.out is not None:
            write_json(known.out, written)
        return
    if known.what == "across":
        across(dict(zip(known.places, sets, strict=True)))
        return
    models = MODELS
    if known.model is not None:
        read = json.loads(known.model.read_text(encoding="utf-8"))
        models = {tuple(name.split("+")): Model(**values) for name, values in read.items()}
    for place, own in zip(known.places, sets, strict=True):
        print(f"\n{place}")
        report(own, models)


if __name__ == "__main__":
    main()
