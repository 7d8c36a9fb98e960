"""Why a recipe costs what it costs: which layer hurts, what its grids do, and which examples flip."""
