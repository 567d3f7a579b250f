"""The formula of contrastive decoding, which VCD and ICD share."""

import torch

from adaptvis_plugin.decoding.mixing import plausible


def contrasted(own: torch.Tensor, view: torch.Tensor, alpha: torch.Tensor, beta: float) -> torch.Tensor:
    """Return (1 + alpha) l - alpha l' over the tokens that are plausible by l.

    Args:
        own: The logits l, shape (batch, vocabulary).
        view: The logits l' of the second stream, same shape.
        alpha: Shape (batch, 1).
        beta: See `plausible`.
    """
    return plausible((1 + alpha) * own - alpha * view, own, beta)
