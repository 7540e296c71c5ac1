"""Which models fit a machine, and how fast they will be: sizes from the engine's own packing, seconds from a model of costs."""
