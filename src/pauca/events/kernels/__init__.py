"""Fast code only: numba on one core, float32, one operation a file, no policy; `reference.py` says what is meant."""
