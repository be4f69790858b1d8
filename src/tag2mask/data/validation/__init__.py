"""Validation of data sets."""
