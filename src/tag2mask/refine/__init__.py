"""Refinement: from CAMs to pseudo masks."""

from tag2mask.refine.crf import CrfSettings, dense_crf, label_probabilities
from tag2mask.refine.random_walk import propagate

__all__ = ["CrfSettings", "dense_crf", "label_probabilities", "propagate"]
