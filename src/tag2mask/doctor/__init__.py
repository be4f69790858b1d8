"""Whether tag2mask works on this machine, and what each stage lacks."""
