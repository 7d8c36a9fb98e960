"""Putting weights and activations on grids of 2 to 8 bits, and running the network that results."""
