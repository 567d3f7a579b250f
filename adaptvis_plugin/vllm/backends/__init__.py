"""vLLM's attention backends with steered rows: each runs the stock kernel, then computes those rows again."""
