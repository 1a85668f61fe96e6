"""Verbs of `pauca events`, one a file; `commands.py` lists them."""
