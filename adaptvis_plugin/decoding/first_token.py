"""What the unsteered model says about its first answer token: what a method may choose by."""

import math
from collections.abc import Mapping, Sequence

import torch

Options = Mapping[str, Sequence[int]]
"""The options that a row offers, each with the tokens that begin it."""


class FirstToken:
    """The first answer token of every row of a batch.

    Args:
        logits: The unsteered model's logits, shape (batch, vocabulary), fp32.
        options: What each row offers; none if it is not known.
    """

    def __init__(self, logits: torch.Tensor, options: Sequence[Options] | None = None) -> None:
        self._logits = logits
        self._options = options

    @property
    def logits(self) -> torch.Tensor:
        """The logits, shape (batch, vocabulary), fp32."""
        return self._logits

    @property
    def options(self) -> Sequence[Options]:
        """What each row offers.

        Raises:
            ValueError: If it was not given.
        """
        if self._options is None:
            raise ValueError(
                "the method needs the tokens of the offered options; give options=... (the adapters of the frameworks "
                "do it)"
            )
        return self._options

    def filled(self, value: float) -> torch.Tensor:
        """Return a number for every row, shape (batch,), fp32."""
        return self.logits.new_full(self.logits.shape[:1], value)

    @property
    def confidence(self) -> torch.Tensor:
        """The probability of the likeliest token, shape (batch,)."""
        return self.logits.softmax(-1).amax(-1)

    @property
    def entropy(self) -> torch.Tensor:
        """The entropy in nats, shape (batch,)."""
        found: torch.Tensor = torch.distributions.Categorical(logits=self.logits).entropy()
        return found

    @property
    def divergence(self) -> torch.Tensor:
        """The Jensen-Shannon divergence from the uniform distribution over the vocabulary in nats, shape (batch,)."""
        even = torch.full_like(self.logits, -math.log(self.logits.shape[-1]))
        return jensen_shannon(self.logits.log_softmax(-1), even)

    @property
    def option_probability(self) -> torch.Tensor:
        """The probability of the likeliest option among those that the row offers, shape (batch,).

        Raises:
            ValueError: If a row offers none, or two of them begin with the same token.
        """
        found = []
        for row, options in enumerate(self.options):
            if not options:
                raise ValueError(f"row {row} offers no options that its first token could tell apart")
            each = torch.stack([self.logits[row, list(tokens)].logsumexp(-1) for tokens in options.values()])
            found.append(each.softmax(-1).amax(-1))
        return torch.stack(found)


class Recorded(FirstToken):
    """What was recorded of first tokens, without their logits.

    Args:
        **measures: What is known, by the name of the property; shape (rows,) each.
    """

    def __init__(self, **measures: torch.Tensor) -> None:
        self._measures = measures

    def _measure(self, name: str) -> torch.Tensor:
        if name not in self._measures:
            raise ValueError(f"the first tokens' {name.replace('_', ' ')} was not recorded")
        return self._measures[name]

    def filled(self, value: float) -> torch.Tensor:
        """Return a number for every row, shape (rows,), fp32."""
        return torch.full_like(next(iter(self._measures.values())), value)

    @property
    def logits(self) -> torch.Tensor:
        """Refuse: there are none."""
        return self._measure("logits")

    @property
    def confidence(self) -> torch.Tensor:
        """The probability of the likeliest token, shape (rows,)."""
        return self._measure("confidence")

    @property
    def entropy(self) -> torch.Tensor:
        """The entropy in nats, shape (rows,)."""
        return self._measure("entropy")

    @property
    def divergence(self) -> torch.Tensor:
        """The divergence from the uniform distribution, shape (rows,)."""
        return self._measure("divergence")

    @property
    def option_probability(self) -> torch.Tensor:
        """The probability of the likeliest option, shape (rows,)."""
        return self._measure("option_probability")


def jensen_shannon(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return the Jensen-Shannon divergence of log-probabilities over the last axis, in nats; at most log 2."""
    middle = torch.logaddexp(first, second) - math.log(2)
    return 0.5 * (_kullback_leibler(first, middle) + _kullback_leibler(second, middle))


def _kullback_leibler(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    # Where the first is impossible, it adds nothing, whatever the second says.
    return torch.where(first > -torch.inf, first.exp() * (first - second), 0.0).sum(-1)
