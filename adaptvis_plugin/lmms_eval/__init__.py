"""The adapter to lmms-eval. Importing this package imports nothing of lmms-eval or torch."""
