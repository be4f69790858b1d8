"""Training: settings, batches, tasks, loop, log and resume state."""
