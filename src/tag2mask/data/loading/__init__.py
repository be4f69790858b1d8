"""Augmentation, and torch datasets of augmented images."""
