"""One mixture-of-experts layer on one device."""
