"""Meta-training: settings, one step, and all steps from the first to the last; and the recipe `strong`."""
