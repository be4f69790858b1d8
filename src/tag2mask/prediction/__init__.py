"""Prediction: from a segmentation network and an image of any size to logits at its size."""
