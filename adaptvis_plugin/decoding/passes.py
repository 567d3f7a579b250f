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
    """What happens to the first pass of a `generate` call, and to the logits of the passes after it.

    Attributes:
        copies: The number of copied tokens in it, behind the prompt.
        branches: The number of rows that the call has for each prompt.
    """

    @property
    def copies(self) -> int: ...  # noqa: D102
    @property
    def branches(self) -> int: ...  # noqa: D102

    def prepare(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Return the inputs of the call."""

    def inside(self) -> AbstractContextManager[None]:
        """Return the block that the call is made in."""

    def ended(self, recording: Recording, output: Any) -> None:
        """Look at the pass when it has ended; may change its output."""

    def later(self, output: Any) -> None:
        """Look at the output of a later pass; may change it."""


class Untouched:
    """A first pass to which nothing happens."""

    copies = 0
    branches = 1

    def prepare(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Return the inputs."""
        return inputs

    def inside(self) -> AbstractContextManager[None]:
        """Return a block in which nothing happens."""
        return nullcontext()

    def ended(self, recording: Recording, output: Any) -> None:
        """Leave the pass as it is."""

    def later(self, output: Any) -> None:
        """Leave the pass as it is."""


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


def positions(model: PreTrainedModel, inputs: dict[str, Any]) -> torch.Tensor:
    """Return the positions of prompts as `generate` would derive them, the last two axes (batch, prompt tokens).

    Some families derive them from the images, of which there are fewer in a call with several rows for each prompt.
    """
    given: torch.Tensor | None = inputs.get("position_ids")
    if given is not None:
        return given
    others = {name: value for name, value in inputs.items() if name != "input_ids"}
    prepare: Any = model._prepare_position_ids_for_generation
    found: torch.Tensor = prepare(inputs["input_ids"], others)
    return found


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
    does = first_pass or Untouched()

    def done(recording: Recording, output: Any) -> None:
        if keep is not None:
            keep(recording)
        does.ended(recording, output)

    watched = text_decoder if first_pass is not None or keep is not None else None
    given, greedy, inside = does.prepare(inputs), greedy.by_branch(does.branches), does.inside()
    recorded = record(model, watched=watched, copies=does.copies, first_token=first_token, done=done, later=does.later)
    try:
        with recorded as first, inside:
            output = greedy.generate(model, given)
    except ValueError as error:
        # Every family counts its image tokens in its forward pass and raises in these words.
        if "image features and image tokens" not in str(error).lower():
            raise
        raise ValueError(
            f"the prompts' image tokens do not fit the images ({error}); a prompt may be truncated, or hold "
            "more or fewer image tokens than images: call the processor without truncation and max_length"
        ) from error
    return Generated(output.sequences[:, given["input_ids"].shape[1] :], first)
