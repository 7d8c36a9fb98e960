"""Students that learn from a teacher, always beside a control that has none."""
