"""Commands that are more than one stage."""
