"""Training-free decoding for vision-language models: the methods, and a decoder that applies them.

Read them in this order:

method         what a method is
parts          what it may consist of: an edit of attention, a second stream, early exits
first_token    what it may choose by
methods/       each method, in a file of its own
gates          when AdaptVis takes a model for unsure
decoder        what a user calls: a batch under a method, or under several strengths
plan           how a batch shall be decoded: the method's parts, as far as one model goes
execution      decodes it: in one pass for every strength, or in two
results        what it returns, and what it has done
validation     what a batch must be
greedy         the generation config: greedy, whatever the checkpoint or the caller says
packing        copies of the edited tokens in the first pass, one for each coefficient
copies         their attention
branches       what follows in a sweep: a branch for each coefficient, on the cache of one prompt
steering       passes in which the last row or more of the attention is edited
heads          which layers and heads are steered
rows           attention in single rows, by the formula
mixing         logits changed at every step
second_stream  by those of another view of the same rows
early_exits    by those of earlier layers
capture        the attention weights of the last prompt token, kept on the way
attention      where it enters the model: an attention function over each of transformers' kernels
prefix/        computes an image that several rows ask about only once
passes         a `generate` call with its first pass recorded
recording      what the first pass was given, and what it returned
first_pass     the hooks around the first pass
finite         the error for logits that are not finite
inspection     which models can be steered exactly, and why the others cannot
"""

from adaptvis_plugin.decoding.decoder import Decoder
from adaptvis_plugin.decoding.finite import NonFiniteLogitsError
from adaptvis_plugin.decoding.first_token import FirstToken
from adaptvis_plugin.decoding.method import Method
from adaptvis_plugin.decoding.methods.adaptvis import AdaptVis
from adaptvis_plugin.decoding.methods.added_constant import AddedConstant
from adaptvis_plugin.decoding.methods.baseline import Baseline
from adaptvis_plugin.decoding.methods.calibrated import Calibrated
from adaptvis_plugin.decoding.methods.deco import DeCo
from adaptvis_plugin.decoding.methods.dola import DoLa
from adaptvis_plugin.decoding.methods.heads_guided import HeadsGuided
from adaptvis_plugin.decoding.methods.icd import ICD
from adaptvis_plugin.decoding.methods.m3id import M3ID
from adaptvis_plugin.decoding.methods.pai import PAI
from adaptvis_plugin.decoding.methods.scaling_vis import ScalingVis
from adaptvis_plugin.decoding.methods.sla import SLA
from adaptvis_plugin.decoding.methods.vaf import VAF
from adaptvis_plugin.decoding.methods.vcd import VCD
from adaptvis_plugin.decoding.methods.yes_bias import YesBias
from adaptvis_plugin.decoding.methods.yes_hint import YesHint
from adaptvis_plugin.decoding.results import Decoded, Statistics

__all__ = [
    "ICD",
    "M3ID",
    "PAI",
    "SLA",
    "VAF",
    "VCD",
    "AdaptVis",
    "AddedConstant",
    "Baseline",
    "Calibrated",
    "DeCo",
    "Decoded",
    "Decoder",
    "DoLa",
    "FirstToken",
    "HeadsGuided",
    "Method",
    "NonFiniteLogitsError",
    "ScalingVis",
    "Statistics",
    "YesBias",
    "YesHint",
]
