"""Pictures and statistics of runs. Knows no framework."""
