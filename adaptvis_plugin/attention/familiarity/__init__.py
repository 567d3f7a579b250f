"""How familiar the relations are to a model, and what its confidence is worth: from a trace alone, without the model.

The paper explains AdaptVis by this: the model is sure of the relations that it knows well, such as left and right, and
sharpening helps there; it is unsure of the others, and smoothing helps there.
"""

from adaptvis_plugin.attention.familiarity.compute import familiarity
from adaptvis_plugin.attention.familiarity.figures import Familiarity, Setting

__all__ = ["Familiarity", "Setting", "familiarity"]
