"""Logits that are not numbers are an error: an answer read off them would be an empty one, scored without a word."""

import torch


class NonFiniteLogitsError(FloatingPointError):
    """The model's logits are not finite numbers.

    Attributes:
        rows: the rows of the batch concerned.
    """

    def __init__(self, message: str, rows: tuple[int, ...]) -> None:
        super().__init__(message)
        self.rows = rows


def check_finite(logits: torch.Tensor, dtype: torch.dtype, when: str) -> None:
    """Raise NonFiniteLogitsError unless a next token can be read off every row.

    A logit of -inf is a word that a model rules out, so single ones are fine.

    Args:
        logits: shape (batch, vocabulary).
        dtype: the model's.
        when: the pass they come from, for the message.
    """
    bad = logits.isnan().any(-1) | logits.isposinf().any(-1) | logits.isneginf().all(-1)
    if bool(bad.any()):
        rows = tuple(bad.nonzero().flatten().tolist())
        cause = (
            "float16 holds no value above 65504; load the model in bfloat16 or float32 (dtype=bfloat16)"
            if dtype == torch.float16
            else "the weights hold NaN or inf, or a coefficient is too large"
        )
        raise NonFiniteLogitsError(
            f"rows {list(rows)}: the {when} gave logits that are not finite, in {dtype}. Likely cause: {cause}", rows
        )
