"""The parts of a method: what happens to attention logits, what a second stream is, what early layers contribute.

A method has any of them, or none (see `method`). Each part holds the method's formula as a function; when and where it
is called is written once, in the driver of the part: `steering` and `packing`, `second_stream`, `early_exits`.

Every formula is given a strength for each row, which `Method.choose` chose. Where that is the method's neutral value,
the driver leaves the row as it is.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch.nn.functional import pad as padded

from adaptvis_plugin.decoding.heads import Heads


@dataclass(frozen=True)
class Columns:
    """What the columns of the attention hold, in each row of a batch.

    Attributes:
        image: Which hold image tokens; shape (batch, 1, 1, columns).
        before: Which hold what comes before the first of them, such as a system prompt; same shape. Padding counts
            too, but nothing sees it.
    """

    image: torch.Tensor
    before: torch.Tensor

    @classmethod
    def of(cls, input_ids: torch.Tensor, image_token_id: int) -> "Columns":
        """Return what the tokens of prompts are, shape (batch, prompt tokens)."""
        image = input_ids == image_token_id
        before = (image.cumsum(1) == 0) & image.any(1, keepdim=True)
        return cls(image[:, None, None], before[:, None, None])

    @property
    def last_image(self) -> torch.Tensor:
        """The last image column of each row, shape (batch,); -1 if it has none."""
        image = self.image[:, 0, 0]
        return torch.where(image, torch.arange(image.shape[1], device=image.device), -1).amax(1)

    def extended(self, total: int, seen: int, device: torch.device) -> "Columns":
        """Return the last `seen` of `total` columns: those after the prompt hold neither."""
        return Columns(
            *(
                padded(mask, (0, total - mask.shape[-1]), value=False)[..., total - seen :].to(device)
                for mask in (self.image, self.before)
            )
        )

    def beside(self, rows: int) -> "Columns":
        """Return those of a batch with so many rows for each of these, of which the first holds them."""
        first = torch.arange(rows, device=self.image.device) == 0
        return Columns(
            *((mask[:, None] & first[:, None, None, None]).flatten(0, 1) for mask in (self.image, self.before))
        )


Change = Callable[[torch.Tensor, Columns, torch.Tensor], torch.Tensor]
"""Maps attention logits, scaled and before mask and softmax, to others.

It is given the logits, shape (batch, heads, rows, columns), fp32; what the columns hold; and the strength, a shape that
can be broadcast to (batch, 1, rows, 1). It returns logits of the same shape, and may change those that it was given.
"""


@dataclass(frozen=True)
class AttentionEdit:
    """What happens to attention logits.

    Attributes:
        change: The formula.
        rows: The rows of the prompt it changes: the `last` one, all `after the image`, or `all`. A generated token
            counts as the last one.
        every_step: Whether the rows of generated tokens are changed too.
        heads: Where it acts.
    """

    change: Change
    rows: Literal["last", "after the image", "all"] = "last"
    every_step: bool = False
    heads: Heads = Heads()  # noqa: RUF009  # it is immutable

    def last_tokens(self, columns: Columns) -> torch.Tensor:
        """Return which of the last tokens of prompts are edited, if not all tokens are.

        Args:
            columns: What the prompts hold.

        Returns:
            Shape (batch, as many tokens as the longest text after an image has). Of a row without an image, the last.
        """
        image = columns.image[:, 0, 0]
        if self.rows == "last":
            return torch.ones_like(image[:, -1:])
        text = torch.where(image.any(1), image.shape[1] - 1 - columns.last_image, 1)
        longest = max(1, int(text.max()))
        return torch.arange(longest, device=image.device) >= longest - text[:, None]


@dataclass(frozen=True)
class NoisedImage:
    """The same prompt with noise on its images.

    Attributes:
        step: How much: the step of the diffusion, of 1000 (see `models.views`).
        seed: Beside it, the noise of a row depends on nothing but the row itself.
    """

    step: int
    seed: int


@dataclass(frozen=True)
class NoImage:
    """The same question without its images."""


@dataclass(frozen=True)
class OtherQuestion:
    """The same images with another question.

    Attributes:
        asked: Maps the question to the one that is asked.
    """

    asked: Callable[[str], str]


@dataclass(frozen=True)
class SecondStream:
    """Another view of the same rows, and how its logits are mixed into those of the rows themselves.

    Attributes:
        view: What the second stream is given.
        mix: The formula. It is given the logits of the row and of its view, shape (batch, vocabulary), fp32; the
            strength, shape (batch, 1); and the number of the answer's tokens so far.
    """

    view: NoisedImage | NoImage | OtherQuestion
    mix: Callable[[torch.Tensor, torch.Tensor, torch.Tensor, int], torch.Tensor]


ExitMix = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""The formula of early exits; see `EarlyExits.mix`."""


@dataclass(frozen=True)
class EarlyExits:
    """What early layers contribute to the logits.

    Attributes:
        layers: After how many layers the hidden states are read, in order, as transformers counts its `hidden_states`:
            0 are the embeddings.
        mix: The formula. It is given the logits of the model, shape (batch, vocabulary), fp32; those of each exit,
            through the model's final norm and its head, shape (batch, exits, vocabulary); and the strength, shape
            (batch, 1).
        depth: Of published layers: the number of layers of the model they were published for; see `Heads.depth`.
    """

    layers: tuple[int, ...]
    mix: ExitMix
    depth: int | None = None

    @classmethod
    def of(cls, layers: tuple[int, ...] | None, published: Iterable[int], mix: ExitMix) -> "EarlyExits":
        """Return the exits that a user names or, if there are none, those published for models of 32 layers."""
        return cls(tuple(published), mix, depth=32) if layers is None else cls(layers, mix)
