"""Confidence of masks without ground truth: an estimate of each mask's IoU."""
