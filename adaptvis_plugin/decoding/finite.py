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


def unusable(logits: torch.Tensor) -> torch.Tensor:
    """Rows of logits off which no next token can be read; shape (batch, vocabulary) -> (batch,).

    A logit of -inf is a word that a model rules out, so single ones are fine.
    """
    return logits.isnan().any(-1) | logits.isposinf().any(-1) | logits.isneginf().all(-1)


def refuse(bad: torch.Tensor, dtype: torch.dtype, where: str) -> None:
    """Raise NonFiniteLogitsError if a row is marked.

    Args:
        bad: as `unusable` returns it.
        dtype: the model's.
        where: the tokens and the pass they come from, for the message.
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
