"""Training of the POT network: settings, order of draws, objective, loop, resume state."""
