"""Speed and memory, always as ratios of things measured in turn in one run."""
