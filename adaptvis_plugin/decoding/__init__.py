"""Training-free attention steering: the methods, and a decoder that applies them at the cost of one prefill."""

from adaptvis_plugin.decoding.adaptvis import AdaptVis
from adaptvis_plugin.decoding.baseline import Baseline
from adaptvis_plugin.decoding.decoder import Decoded, Decoder
from adaptvis_plugin.decoding.method import Method
from adaptvis_plugin.decoding.scaling_vis import ScalingVis

__all__ = ["AdaptVis", "Baseline", "Decoded", "Decoder", "Method", "ScalingVis"]
