"""From a segmentation network and a photograph of any size to logits at its size: scales, mirror images, tiles."""
