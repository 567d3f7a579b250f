"""Training-free attention steering: the methods, and a decoder that applies them at the cost of one prefill.

attention       the formula, as a function for transformers' attention interface
first_forward   steers or watches a single forward pass of a model
inspection      which models can be steered exactly, and why not the others
plain_pass      the unsteered pass, and whether its cache can carry the steered one
prefix          rows that ask about the same image compute it once
changes         whether the model is still the one that computed them
greedy          greedy decoding, whatever the checkpoint's generation config says
finite          logits that are not numbers are an error
decoder         puts these together
method          what a method is; each method is a file of its own
"""

from adaptvis_plugin.decoding.adaptvis import AdaptVis
from adaptvis_plugin.decoding.baseline import Baseline
from adaptvis_plugin.decoding.decoder import Decoded, Decoder, Statistics
from adaptvis_plugin.decoding.finite import NonFiniteLogitsError
from adaptvis_plugin.decoding.method import Method
from adaptvis_plugin.decoding.scaling_vis import ScalingVis

__all__ = ["AdaptVis", "Baseline", "Decoded", "Decoder", "Method", "NonFiniteLogitsError", "ScalingVis", "Statistics"]
