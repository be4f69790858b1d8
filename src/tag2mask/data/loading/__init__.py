"""Training samples: random views of images."""
