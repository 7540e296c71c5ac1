"""How good a model is, in numbers that come with intervals: perplexity, and distance from another model."""
