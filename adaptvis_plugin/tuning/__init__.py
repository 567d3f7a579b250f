"""Settings for a model from the trace of a sweep, and an honest estimate of what they bring.

Read them in this order:

outcomes   a trace as numbers: what every answer of every row is worth
search     every setting of ScalingVis and AdaptVis, or of another method that was swept, at once, and the best
controls   what corrects the model's label bias without steering, fitted to the same rows
folds      the same choices made on some rows and scored on the others
lines      the ways of answering that are compared, and what they are called
study      everything that is found about a trace
sentences  what it means, in words
report     tables, for the terminal and in files; plots
preset     the settings as a preset
"""

from adaptvis_plugin.tuning.outcomes import TuneError

__all__ = ["TuneError"]
"""The engine is imported from its modules: it needs scikit-learn and scipy, which are slow to load."""
