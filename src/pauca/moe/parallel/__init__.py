"""One layer on several ranks."""
