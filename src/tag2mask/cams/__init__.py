"""CAMs: their kinds, inference with the POT network, and base CAMs from CLIP."""
