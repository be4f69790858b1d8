"""Ground: errors, files, settings, devices, processes."""
