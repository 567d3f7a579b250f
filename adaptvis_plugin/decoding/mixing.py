"""Logits changed at every step: what second streams and early exits have in common."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch

from adaptvis_plugin.decoding.first_token import FirstToken, Options
from adaptvis_plugin.decoding.passes import FirstPass
from adaptvis_plugin.decoding.recording import Recording

_BEHIND = 1e4
"""How far the logits of words that a method rules out are put behind the others."""


def plausible(scores: torch.Tensor, logits: torch.Tensor, beta: float) -> torch.Tensor:
    """Return scores with every token ruled out that the unchanged model finds implausible.

    This is the adaptive plausibility constraint of contrastive decoding (Li et al., ACL 2023, arXiv 2210.15097, eq. 3):
    a token stays if its probability is at least beta times that of the likeliest.

    Args:
        scores: Shape (batch, vocabulary).
        logits: The unchanged model's, same shape.
        beta: From 0, which rules out nothing, to 1, which leaves only the likeliest token.
    """
    if beta == 0:
        return scores
    least = logits.amax(-1, keepdim=True) + torch.tensor(beta).log().item()
    return scores.masked_fill(logits < least, -torch.inf)


class MixedPass:
    """A `generate` call whose logits are mixed with others at every step: see `passes.FirstPass`.

    Args:
        inner: What happens to the first pass beside that.
        choose: Called when the first pass has ended, for the strength of each row, and which rows stay as they are;
            shape (batch,) each.

    Attributes:
        alpha: The strength of each row, shape (batch,).
        logits: The mixed logits of the first token, shape (batch, vocabulary), fp32.
    """

    branches = 1
    alpha: torch.Tensor
    logits: torch.Tensor

    def __init__(self, inner: FirstPass, choose: Callable[[Recording], tuple[torch.Tensor, torch.Tensor]]) -> None:
        self._inner = inner
        self._choose = choose
        self._step = 0

    @property
    def copies(self) -> int:
        """Those of the pass inside."""
        return self._inner.copies

    def mixed(self, logits: torch.Tensor, strength: torch.Tensor, step: int) -> torch.Tensor:
        """Return the logits of a step.

        Args:
            logits: Those of the rows themselves, shape (batch, vocabulary), fp32.
            strength: Shape (batch, 1).
            step: The number of the answer's tokens so far.
        """
        raise NotImplementedError

    def prepare(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Return the inputs of the call."""
        return self._inner.prepare(inputs)

    def inside(self) -> AbstractContextManager[None]:
        """Return the block that the call is made in."""
        return self._inner.inside()

    def ended(self, recording: Recording, output: Any) -> None:
        """Mix the logits of the first token."""
        self._inner.ended(recording, output)
        self.alpha, self._untouched = self._choose(recording)
        output.logits = self.next(output.logits[:, -1])[:, None]

    def later(self, output: Any) -> None:
        """Mix the logits of a later token."""
        output.logits = self.next(output.logits[:, -1])[:, None]

    def next(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the mixed logits of the next step for `generate`; see `mixed`."""
        logits, strength = logits.float(), self.alpha[:, None].to(logits.device)
        mixed = self.mixed(logits, strength, self._step)
        # A word that the model rules out stays ruled out: its logit may be -inf, with which nothing can be computed.
        never = logits <= torch.finfo(torch.float16).min
        mixed = torch.where(self._untouched[:, None].to(logits.device), logits, mixed.masked_fill(never, -torch.inf))
        if self._step == 0:
            self.logits = mixed
        self._step += 1
        # Behind all others, and not at -inf: a logits processor may rule out every word that the method leaves.
        return torch.where((mixed == -torch.inf) & ~never, logits - _BEHIND, mixed)


class FirstTokenPass(MixedPass):
    """A `generate` call in which a method changes the logits of the first token: see `Method.first_logits`.

    Args:
        change: Maps what the model says about the first token to other logits.
        options: See `FirstToken`.
        **arguments: See `MixedPass`.
    """

    def __init__(
        self,
        change: Callable[[FirstToken], torch.Tensor],
        options: Sequence[Options] | None,
        **arguments: Any,
    ) -> None:
        super().__init__(**arguments)
        self._change = change
        self._options = options

    def mixed(self, logits: torch.Tensor, strength: torch.Tensor, step: int) -> torch.Tensor:
        """Return the changed logits of the first token, and those of later ones as they are."""
        return self._change(FirstToken(logits, self._options)) if step == 0 else logits
