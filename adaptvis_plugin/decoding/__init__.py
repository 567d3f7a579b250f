"""Training-free attention steering: the methods, and a decoder that applies them at the cost of one prefill.

Read them in this order:

method      what a method is; each has its own file (baseline, scaling_vis, adaptvis, calibrated, added_constant)
decoder     decodes a batch: in one pass for every coefficient, or in two
results     what it returns, and what it has done
validation  what a batch must be
greedy      the generation config: greedy, whatever the checkpoint or the caller says
packing     copies of the last prompt token in the first pass, one for each coefficient
branches    what follows in a sweep: a branch for each coefficient, on the cache of one prompt
steering    a pass of its own, where copies are not exact or every row is steered
heads       which layers and heads are steered
rows        the formula
capture     the attention weights of the last prompt token, kept on the way
attention   where it enters the model: an attention function over each of transformers' kernels
prefix/     computes an image that several rows ask about only once
passes      a `generate` call with its first pass recorded
recording   what the first pass was given, and what it returned
first_pass  the hooks around the first pass
finite      the error for logits that are not finite
inspection  which models can be steered exactly, and why the others cannot
"""

from adaptvis_plugin.decoding.adaptvis import AdaptVis
from adaptvis_plugin.decoding.added_constant import AddedConstant
from adaptvis_plugin.decoding.baseline import Baseline
from adaptvis_plugin.decoding.calibrated import Calibrated
from adaptvis_plugin.decoding.decoder import Decoder
from adaptvis_plugin.decoding.finite import NonFiniteLogitsError
from adaptvis_plugin.decoding.method import Method
from adaptvis_plugin.decoding.results import Decoded, Statistics
from adaptvis_plugin.decoding.scaling_vis import ScalingVis

__all__ = [
    "AdaptVis",
    "AddedConstant",
    "Baseline",
    "Calibrated",
    "Decoded",
    "Decoder",
    "Method",
    "NonFiniteLogitsError",
    "ScalingVis",
    "Statistics",
]
