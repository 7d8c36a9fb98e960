"""What the levers do: a teacher over several seeds, several levers together, and what teacher and student say."""
