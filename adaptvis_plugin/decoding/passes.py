"""A `generate` call on a batch, with its first forward pass recorded."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from transformers import PreTrainedModel

from adaptvis_plugin.decoding.greedy import Greedy
from adaptvis_plugin.decoding.inspection import TextDecoder
from adaptvis_plugin.decoding.recording import Recording, record


class FirstPass(Protocol):
    """What happens to the first pass of a `generate` call.

    Attributes:
        copies: The number of copies of the last prompt token in it.
        branches: The number of rows that the call has for each prompt.
    """

    copies: int
    branches: int

    def prepare(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Return the inputs of the call."""

    def inside(self) -> AbstractContextManager[None]:
        """Return the block that the call is made in."""

    def ended(self, recording: Recording, output: Any) -> None:
        """Look at the pass when it has ended; may change its output."""


@dataclass(frozen=True)
class Generated:
    """The result of a `generate` call.

    Attributes:
        sequences: The new tokens, shape (rows, new tokens).
        first: The recording of its first pass.
        prefixes_reused: The number of rows with a prefix that was computed for another row (see `prefix`).
    """

    sequences: torch.Tensor
    first: Recording
    prefixes_reused: int = 0


def generate(
    model: PreTrainedModel,
    text_decoder: TextDecoder,
    inputs: dict[str, Any],
    greedy: Greedy,
    *,
    first_pass: FirstPass | None = None,
    keep: Callable[[Recording], None] | None = None,
    first_token: str = "the first token",
) -> Generated:
    """Call `generate`.

    Args:
        model: The model.
        text_decoder: Its text decoder.
        inputs: What the processor returned, with an attention mask.
        greedy: How to generate.
        first_pass: What happens to the first pass.
        keep: Called with the recording when the first pass has ended, while the cache holds the whole prompt.
        first_token: What to call the first token in an error.

    Raises:
        InexactError: If the copies are not exact for this batch.
        ValueError: If the image tokens do not fit the images.
        NonFiniteLogitsError: If a row's logits are not finite.
    """

    def done(recording: Recording, output: Any) -> None:
        if keep is not None:
            keep(recording)
        if first_pass is not None:
            first_pass.ended(recording, output)

    watched = text_decoder if first_pass is not None or keep is not None else None
    copies = 0 if first_pass is None else first_pass.copies
    inside: AbstractContextManager[None] = nullcontext()
    given = inputs
    if first_pass is not None:
        given, greedy, inside = first_pass.prepare(inputs), greedy.by_branch(first_pass.branches), first_pass.inside()
    try:
        with record(model, watched=watched, copies=copies, first_token=first_token, done=done) as first, inside:
            output = greedy.generate(model, given)
    except ValueError as error:
        # Every family counts its image tokens in its forward pass and raises in these words.
        if "image features and image tokens" not in str(error).lower():
            raise
        raise ValueError(
            f"the prompts' image tokens do not fit the images ({error}); a prompt may be truncated, or hold "
            "more or fewer image tokens than images: call the processor without truncation and max_length"
        ) from error
    return Generated(output.sequences[:, inputs["input_ids"].shape[1] :], first)
