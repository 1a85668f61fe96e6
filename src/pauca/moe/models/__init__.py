"""Models made of such layers, and those of `transformers`."""
