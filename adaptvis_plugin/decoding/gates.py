"""Gates: when a model counts as unsure of its first answer token, as AdaptVis asks. Each is one line.

Chen et al. (ICML 2025) use the confidence. The others are those of forks of AdaptVis.
"""

from collections.abc import Callable

import torch

from adaptvis_plugin.decoding.first_token import FirstToken

GATES: dict[str, Callable[[FirstToken, float], torch.Tensor]] = {
    "confidence": lambda first, threshold: _hundredths(first.confidence) < threshold,
    "options": lambda first, threshold: _hundredths(first.option_probability) < threshold,
    "entropy": lambda first, threshold: first.entropy > threshold,
    "divergence": lambda first, threshold: first.divergence < threshold,
}
"""The gates by name: which rows are unsure, shape (batch,).

confidence  the probability of the likeliest token, rounded to two decimals as in the authors' code, is below it
options     so is the probability of the likeliest option among those that the row offers
entropy     the entropy is above it, in nats
divergence  the Jensen-Shannon divergence from the uniform distribution over the vocabulary is below it, in nats
"""

MOST = {"confidence": 1.0, "options": 1.0, "divergence": 0.6932}
"""The largest threshold of the gates that have one."""

RANGES = {
    "confidence": "the confidence it is compared with is a probability",
    "options": "the options' probability it is compared with is one",
    "divergence": "the divergence it is compared with is at most log 2",
}
"""Why."""


def _hundredths(probability: torch.Tensor) -> torch.Tensor:
    # In double, because fp32 holds neither 0.35 nor a confidence rounded to it exactly. Apple's MPS has no double,
    # so there it is done on the CPU.
    exact = probability.cpu() if probability.device.type == "mps" else probability
    return exact.double().round(decimals=2)
