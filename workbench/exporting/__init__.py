"""Files that run elsewhere, and whether what runs is what was simulated."""
