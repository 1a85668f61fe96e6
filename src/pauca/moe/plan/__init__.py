"""What fits on which GPUs, and how fast it trains."""
