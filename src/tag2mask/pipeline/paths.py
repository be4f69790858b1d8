"""Paths inside a run folder: every stage finds the outputs of the others here, and imports none of them."""

TRAIN_NETWORK = "train/network.safetensors"
EDGE_NETWORK = "edges/network.safetensors"
EDGE_LABELS = "edges/labels"
LABEL_CONFIDENCE = "refine/confidence"
MASKS = "masks"
WHOLE = "all"
"""The split name under which figures of data without splits are kept."""
