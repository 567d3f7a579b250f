"""Training-free attention steering: the methods, and a decoder that applies them at the cost of one prefill.

Read them in this order:

method      what a method is; each method has its own file (baseline, scaling_vis, adaptvis)
decoder     decodes a batch: prefill, confidence, coefficients, steered step
greedy      the generation config: greedy, whatever the checkpoint or the caller says
prefix/     runs the prefill, and computes an image that several rows ask about only once
prefill     the unsteered pass over a batch, and how a steered pass goes on from it
recording   records the first forward pass of a `generate` call
steering    steers the first forward pass of a `generate` call
attention   the formula, as a function for transformers' attention interface
first_pass  the hooks that recording and steering share
finite      the error for logits that are not finite
inspection  which models can be steered exactly, and why the others cannot
"""

from adaptvis_plugin.decoding.adaptvis import AdaptVis
from adaptvis_plugin.decoding.baseline import Baseline
from adaptvis_plugin.decoding.decoder import Decoded, Decoder, Statistics
from adaptvis_plugin.decoding.finite import NonFiniteLogitsError
from adaptvis_plugin.decoding.method import Method
from adaptvis_plugin.decoding.scaling_vis import ScalingVis

__all__ = ["AdaptVis", "Baseline", "Decoded", "Decoder", "Method", "NonFiniteLogitsError", "ScalingVis", "Statistics"]
