"""Training a network on its grids: weights and steps together."""
