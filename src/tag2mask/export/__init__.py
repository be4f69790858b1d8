"""Exports: ONNX, and masks in formats of other tools."""
