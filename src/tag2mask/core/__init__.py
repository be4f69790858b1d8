"""Errors, files, settings, devices and processes."""
