"""Models into other files: quantised ones, the importance of weights that helps with it, and lossless conversion."""
