"""Putting weights and activations on grids of 1 to 8 bits, and running the network that results."""
