"""What a sweep costs, in words and in plain runs of the same rows."""

from adaptvis_plugin.decoding import Method
from adaptvis_plugin.decoding.parts import NoImage
from adaptvis_plugin.methods import name_of

SECOND, SECOND_WITHOUT_IMAGE, EXITS, COPIED_TEXT = 2.0, 1.2, 1.1, 1.1
"""What a decoding takes beside a second stream, with early exits, or with copies of the text after the image, where a
plain one is 1: as `python -m benchmarks decoders` measures it for LLaVA-1.5's prompts and short answers."""


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
        factor, beside = COPIED_TEXT, ", with copies of the text after the image"
    noun = "strength costs" if strengths == 1 else "strengths cost"
    return (
        f"a sweep of {name_of(method)} decodes every row once per strength{beside}: {strengths} {noun} about "
        f"{round(strengths * factor) or 1} plain runs, and the plain answers one more"
    )
