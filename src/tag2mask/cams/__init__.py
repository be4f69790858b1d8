"""CAMs from networks: inference, and CLIP."""
