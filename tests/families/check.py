"""Each family's decoder compared with the oracle: measured once, asserted by the tests and printed in the table."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import transformers
from torch.nn.functional import pad

from adaptvis_plugin.decoding import Decoder, Method
from adaptvis_plugin.decoding.first_token import FirstToken
from tests import oracle
from tests.families import FAMILIES
from tests.families.build import IMAGE, NOT_TEXT, PAD, Family, random_batch, random_model

ALPHAS = (0.5, 2.0, 1.5)
TEXTS = [3, 7, 5]
IMAGE_LAST = [3, 0, 5]  # the row with two images ends in the second
NEW_TOKENS = 4


@dataclass(frozen=True)
class PerRow(Method):
    """Give every row its own coefficient, whatever the confidence.

    Attributes:
        by_row: The coefficients.
        known: Whether they are known before the confidence, so that one pass may be enough.
    """

    by_row: tuple[float, ...]
    known: bool = True

    def choose(self, first: FirstToken) -> torch.Tensor:
        return torch.tensor(self.by_row, device=first.logits.device)

    @property
    def alphas(self) -> tuple[float, ...] | None:
        return self.by_row if self.known else None


@dataclass(frozen=True)
class Measured:
    """A family's random model on a ragged batch with a coefficient per row.

    Attributes:
        mode: How the decoder steered it.
        difference: Largest difference of a first-token logit from the oracle's.
        confidence: Largest difference of a confidence from the oracle's.
        effect: Largest change of a first-token logit by steering.
        same_text: Whether every generated token is the oracle's.
        plain_difference: Largest difference from `generate` with alpha 1 in every row.
        same_plain_text: Whether the generated tokens are those of `generate`.
        sweep_difference: Largest difference of a first-token logit from the oracle's in a sweep over all coefficients.
        same_swept_text: Whether every generated token of the sweep is the oracle's.
        steered: Names of the steered modules.
    """

    mode: str
    difference: float
    confidence: float
    effect: float
    same_text: bool
    plain_difference: float
    same_plain_text: bool
    sweep_difference: float
    same_swept_text: bool
    steered: tuple[str, ...]


@cache
def measure(name: str, image_last: bool = False, device: str = "cpu") -> Measured:
    """Compare one family with the oracle, on a batch in which all rows end in text or one ends in an image."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # nothing here is large enough for several threads
    try:
        return _measure(FAMILIES[name], IMAGE_LAST if image_last else TEXTS, device)
    finally:
        torch.set_num_threads(threads)


def _measure(family: Family, texts: list[int], device: str) -> Measured:
    model: Any = random_model(family)
    model.to(device)
    inputs = on(device, random_batch(family, texts))
    alphas = torch.tensor(ALPHAS, device=device)
    options: dict[str, Any] = {
        "own_positions": family.own_positions,
        "answer_type": family.prefix_types[2],
        "forbidden": NOT_TEXT,
    }
    expected = oracle.scaling_vis(model, inputs, IMAGE, alphas, NEW_TOKENS, **options)
    unsteered, text = oracle.complete_pass(model, inputs, IMAGE, torch.ones_like(alphas), NEW_TOKENS, **options)

    decoder = Decoder(model, prefix_bytes=2**30)
    out = decoder.generate(inputs, PerRow(ALPHAS), max_new_tokens=NEW_TOKENS, suppress_tokens=NOT_TEXT)
    mode = "one pass" if decoder.stats.packed_passes else "two passes"
    # PerRow does not know that ones leave every row unsteered, so this takes the steered path.
    ones = decoder.generate(inputs, PerRow((1.0,) * len(texts)), max_new_tokens=NEW_TOKENS, suppress_tokens=NOT_TEXT)
    sweep = decoder.sweep(inputs, ALPHAS, max_new_tokens=NEW_TOKENS, suppress_tokens=NOT_TEXT)
    # Row i of the oracle's result is under the i-th coefficient.
    swept = [(sweep[1.0].first_logits, unsteered), (sweep[1.0].sequences, text)]
    for row, alpha in enumerate(ALPHAS):
        swept.append((sweep[alpha].first_logits[row], expected.first_logits[row]))
        swept.append((sweep[alpha].sequences[row], expected.sequences[row]))
    plain = model.generate(
        **inputs,
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        suppress_tokens=NOT_TEXT,
        output_logits=True,
        return_dict_in_generate=True,
    )
    return Measured(
        mode=mode,
        difference=float((out.first_logits - expected.first_logits).abs().max()),
        confidence=float((out.confidence - expected.confidence).abs().max()),
        effect=float((expected.first_logits - unsteered).abs().max()),
        same_text=torch.equal(out.sequences, expected.sequences),
        plain_difference=float((ones.first_logits - plain.logits[0]).abs().max()),
        same_plain_text=torch.equal(ones.sequences, plain.sequences[:, inputs["input_ids"].shape[1] :]),
        sweep_difference=max(float((ours - slow).abs().max()) for ours, slow in swept[::2]),
        same_swept_text=all(same_tokens(ours, slow) for ours, slow in swept[1::2]),
        steered=tuple(n for n, module in model.named_modules() if module in decoder._text_decoder.attention),
    )


def on(device: str, inputs: dict[str, Any], dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """Return a batch on a device, with its pixels in a type."""
    return {
        name: tensor.to(device, dtype if tensor.is_floating_point() else tensor.dtype)
        for name, tensor in inputs.items()
    }


def same_tokens(ours: torch.Tensor, slow: torch.Tensor) -> bool:
    """Whether both hold the same tokens, whatever the padding behind them; shape (..., tokens)."""
    width = max(ours.shape[-1], slow.shape[-1])
    return torch.equal(*(pad(tokens, (0, width - tokens.shape[-1]), value=PAD) for tokens in (ours, slow)))


def inspected(architecture: str) -> str:
    """Return what inspection says about a family's default configuration, on a model without weights.

    The configurations are too large to run, so the masks cannot show whether earlier tokens see the last one.
    """
    cls = getattr(transformers, architecture)
    config = cls.config_class()
    with torch.device("meta"):
        model = cls(config)
    try:
        decoder = Decoder(model)
    except ValueError as error:
        reason = (
            str(error)
            .removeprefix(architecture)
            .removeprefix(":")
            .removesuffix("; it cannot be steered exactly and is refused")
        )
        return f"refused: {reason.strip()}"
    return "two passes (recurrent state)" if decoder._text_decoder.recurrent else "one pass, if the masks allow it"


def refusal(family: Family) -> str:
    """Return the reason why a family is refused."""
    return inspected(family.architecture).removeprefix("refused: ")
