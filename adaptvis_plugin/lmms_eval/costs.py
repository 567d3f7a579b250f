"""What a sweep costs, in words and in plain runs of the same rows."""

from adaptvis_plugin.decoding import Method
from adaptvis_plugin.decoding.parts import NoImage
from adaptvis_plugin.methods import name_of

SECOND, SECOND_WITHOUT_IMAGE, EXITS, TWO_PASSES = 2.0, 1.5, 1.3, 2.0
"""What a decoding takes beside a second stream, with early exits, or after a pass of its own for the confidence, where
a plain one is 1: estimates from the passes that are made. `python -m benchmarks` measures them."""


def cost_of_sweep(method: Method, strengths: int) -> str | None:
    """Return what a sweep costs, as a sentence; None if one prefill serves every strength.

    Args:
        method: The method that is swept.
        strengths: The number of strengths besides the neutral one.
    """
    if method.shares_prefill or not strengths:
        return None
    factor, beside = 1.0, ""
    if method.second is not None:
        without = isinstance(method.second.view, NoImage)
        factor = SECOND_WITHOUT_IMAGE if without else SECOND
        beside = f", beside its second stream{' without the image' if without else ''}"
    elif method.exits is not None:
        factor, beside = EXITS, ", with the logits of earlier layers at every step"
    elif method.attention is not None:
        factor, beside = TWO_PASSES, ", in two passes over the prompt"
    noun = "strength costs" if strengths == 1 else "strengths cost"
    return (
        f"a sweep of {name_of(method)} decodes every row once per strength{beside}: {strengths} {noun} about "
        f"{round(strengths * factor) or 1} plain runs, and the plain answers one more"
    )
