"""The stages of a run, and the folder that they share."""
