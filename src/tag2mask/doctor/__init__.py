"""`doctor`: is this machine sound for the stages? It imports nothing that may be broken; it asks other processes."""
