"""Stop strings, looked for in the answer alone."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase, StoppingCriteria

_SLACK = 8
"""Tokens read beyond the longest stop string, because the first ones may begin in the middle of a character."""


class StopStrings(StoppingCriteria):
    r"""Ends each row as soon as its answer holds a stop string.

    transformers' own `stop_strings` looks at the end of the whole sequence. There a prompt that ends in a line break
    and an answer that begins with one make `\n\n`, and the answer ends with its first token.

    It notices when a new `generate` call begins; at its first step all tokens but the last one are the prompt.

    Args:
        tokenizer: The model's.
        strings: The stop strings; none is empty.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, strings: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._strings = tuple(strings)
        # A token stands for at least one byte.
        self._reach = max(len(string.encode()) for string in strings) + _SLACK
        self._prompt = 0
        self._last: torch.Tensor | None = None

    @classmethod
    def of(
        cls, tokenizer: PreTrainedTokenizerBase, given: Sequence[str], own: str | Sequence[str] | None
    ) -> "StopStrings | None":
        """Return what ends an answer at the caller's strings and at the checkpoint's own; None if there are none."""
        every = [*given, *([own] if isinstance(own, str) else own or ())]
        return cls(tokenizer, every) if every else None

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """Return whether each row is done, shape (rows,); `input_ids` has shape (rows, prompt and answer)."""
        # A sweep may take several `generate` calls, whose prompts may be padded to different lengths.
        if self._last is None or not torch.equal(input_ids[:, :-1], self._last):
            self._prompt = input_ids.shape[1] - 1
        self._last = input_ids
        return torch.tensor(self.hold_one(input_ids[:, self._prompt :]), device=input_ids.device)

    def length(self, answer: torch.Tensor) -> int:
        """Return the tokens of one row's answer up to and with the one that completes a stop string, or all of them."""
        whole = str(self._tokenizer.decode(answer))
        if self.before(whole) == whole:
            return len(answer)
        ends = (end for end in range(1, len(answer) + 1) if self.hold_one(answer[None, :end])[0])
        return next(ends, len(answer))

    def before(self, text: str) -> str:
        """Return the text up to the first stop string."""
        for string in self._strings:
            text = text.split(string, 1)[0]
        return text

    def hold_one(self, answers: torch.Tensor) -> list[bool]:
        """Return whether each answer holds a stop string near its end; `answers` has shape (rows, tokens)."""
        texts = self._tokenizer.batch_decode(answers[:, -self._reach :])
        return [any(string in text for string in self._strings) for text in texts]


def texts_and_lengths(
    decoder: Any, sequences: torch.Tensor, ends: int | Sequence[int] | None, stop: StopStrings | None
) -> list[tuple[str, int]]:
    """Return each answer's text, and its tokens with the one that ends it but without the padding after that.

    Args:
        decoder: The processor or tokenizer, with `batch_decode`.
        sequences: Generated tokens, shape (rows, tokens), on the CPU.
        ends: The tokens that end an answer.
        stop: What else ended it. Padding cannot tell: in many checkpoints the pad token is an end token.
    """
    known = {ends} if ends is None or isinstance(ends, int) else {*ends}
    rows = [next((i + 1 for i, token in enumerate(row) if token in known), len(row)) for row in sequences.tolist()]
    texts = decoder.batch_decode(sequences, skip_special_tokens=True)
    if stop is None:
        return [(text.strip(), length) for text, length in zip(texts, rows, strict=True)]
    return [
        (stop.before(text).strip(), min(length, stop.length(row)))
        for text, length, row in zip(texts, rows, sequences, strict=True)
    ]
