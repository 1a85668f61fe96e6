"""Training of language models, and its diagnosis."""
