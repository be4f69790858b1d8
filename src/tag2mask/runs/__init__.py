"""A run: settings, folder, lock, images, progress."""
