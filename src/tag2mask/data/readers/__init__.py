"""Readers of data sets: class folders, tables, VOC, COCO."""
