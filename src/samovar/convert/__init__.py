"""Models into other files: quantised ones, and the importance of weights that helps with it."""
