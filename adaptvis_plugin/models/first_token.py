"""What the first answer token's logits say: entropy, likeliest tokens, and the probability of each offered option."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch

TOP = 20
"""How many of the likeliest first tokens are kept."""


def entropy(logits: torch.Tensor) -> torch.Tensor:
    """Return the entropy of each row's first token in nats.

    Args:
        logits: Shape (rows, vocabulary).

    Returns:
        Shape (rows,), fp32.
    """
    found: torch.Tensor = torch.distributions.Categorical(logits=logits.float()).entropy()
    return found


def top_tokens(logits: torch.Tensor, tokenizer: Any, count: int = TOP) -> list[list[tuple[int, str, float]]]:
    """Return each row's likeliest first tokens: id, text and log-probability, likeliest first.

    Args:
        logits: Shape (rows, vocabulary).
        tokenizer: The model's.
        count: How many.
    """
    found = logits.float().log_softmax(-1).topk(min(count, logits.shape[-1]))
    ids, values = found.indices.tolist(), found.values.tolist()
    text = dict(
        zip(
            every := sorted({token for row in ids for token in row}),
            tokenizer.batch_decode([[token] for token in every]),
            strict=True,
        )
    )
    return [
        # A word that the model rules out, with a logit of -inf, is not one of its likeliest.
        [(token, text[token], value) for token, value in zip(*row, strict=True) if value > -math.inf]
        for row in zip(ids, values, strict=True)
    ]


class OptionTokens:
    """The first tokens that begin each option.

    An option may be written in lower case, as given, or with a capital, and as a word with or without a space before
    it: all of these count for it. A token that begins several options says nothing about which is meant, and counts for
    none.

    Args:
        tokenizer: The model's.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.of = lru_cache(maxsize=4096)(self._of)

    def _of(self, options: tuple[str, ...]) -> tuple[tuple[int, ...], ...] | None:
        """Return each option's token ids; None if there are no options, or one has no token of its own."""
        found = [self._first_tokens(option) for option in options]
        shared = Counter(token for tokens in found for token in tokens)
        own = tuple(tuple(sorted(token for token in tokens if shared[token] == 1)) for tokens in found)
        return own if own and all(own) else None

    def _first_tokens(self, option: str) -> set[int]:
        ways = {option, option.lower(), option[:1].upper() + option[1:]}
        # SentencePiece reads a text as if a space came before it: only behind a line break does a word stand without.
        texts = [before + way for way in ways for before in ("", " ", "\n")]
        found = [self._tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        # Some tokenizers write what comes before as tokens of their own: the option begins at the next one.
        written = (
            next((token for token in tokens if self._tokenizer.decode([token]).strip()), None) for tokens in found
        )
        return {token for token in written if token is not None}

    def log_probabilities(self, logits: torch.Tensor, options: Sequence[Sequence[str]]) -> list[Mapping[str, float]]:
        """Return each row's log-probability of each of its options, normalised over them.

        Args:
            logits: Shape (rows, vocabulary).
            options: Each row's options; may be empty.

        Returns:
            For each row its options in order. Empty if `of` has no tokens for them, or if none of them is possible.
        """
        logits = logits.cpu()  # once: on a GPU, each option would take a call and a wait of its own
        result: list[Mapping[str, float]] = [{} for _ in options]
        alike: dict[tuple[str, ...], list[int]] = {}
        for row, offered in enumerate(options):
            alike.setdefault(tuple(offered), []).append(row)
        for offered, rows in alike.items():
            if (tokens := self.of(offered)) is None:
                continue
            own = logits[rows].float()
            sums = torch.stack([own[:, list(ids)].logsumexp(-1) for ids in tokens], -1)
            for row, values in zip(rows, sums.log_softmax(-1).tolist(), strict=True):
                if not math.isnan(values[0]):
                    result[row] = dict(zip(offered, values, strict=True))
        return result
