"""Evaluation: CAMs and masks against ground truth, by one confusion matrix."""

from tag2mask.evaluation.confusion import DEFAULT_THRESHOLDS, IGNORE_INDEX, Confusion, ThresholdSweep
from tag2mask.evaluation.figures import Counts, EvaluationError, Figures
from tag2mask.evaluation.folders import count_cams, count_masks, evaluate_cams, evaluate_masks

__all__ = [
    "DEFAULT_THRESHOLDS",
    "IGNORE_INDEX",
    "Confusion",
    "Counts",
    "EvaluationError",
    "Figures",
    "ThresholdSweep",
    "count_cams",
    "count_masks",
    "evaluate_cams",
    "evaluate_masks",
]
