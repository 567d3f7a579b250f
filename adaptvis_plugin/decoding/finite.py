"""Logits that are not finite are an error: the answer would be empty, and would be scored without a warning."""

import torch


class NonFiniteLogitsError(FloatingPointError):
    """The model's logits are not finite numbers.

    Attributes:
        rows: The affected rows of the batch.
    """

    def __init__(self, message: str, rows: tuple[int, ...]) -> None:
        super().__init__(message)
        self.rows = rows


def unusable(logits: torch.Tensor) -> torch.Tensor:
    """Mark the rows of logits that give no next token; shape (batch, vocabulary) -> (batch,).

    A logit of -inf rules a word out, so single ones are fine.
    """
    return ~(logits.amax(-1).abs() < torch.inf)  # the largest is NaN if any is


def refuse(bad: torch.Tensor, dtype: torch.dtype, where: str) -> None:
    """Raise NonFiniteLogitsError if a row is marked.

    Args:
        bad: What `unusable` returned.
        dtype: The model's dtype.
        where: The token and the pass that the logits belong to, for the message.
    """
    if not bool(bad.any()):
        return
    rows = tuple(bad.nonzero().flatten().tolist())
    cause = (
        "float16 holds no value above 65504; load the model in bfloat16 or float32 (dtype=bfloat16)"
        if dtype == torch.float16
        else "the weights hold NaN or inf (a damaged checkpoint), or a coefficient is too large"
    )
    raise NonFiniteLogitsError(
        f"rows {list(rows)}: the logits of {where} are not finite, in {dtype}. Likely cause: {cause}", rows
    )
