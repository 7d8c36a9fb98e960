"""What a model reaches under all levers, measured ahead and kept in a file that comes along with it."""
