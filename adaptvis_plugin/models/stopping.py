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

    Use one instance for one `generate` call: at its first call all tokens but the last one are the prompt.

    Args:
        tokenizer: The model's.
        strings: The stop strings; none is empty.

    Attributes:
        lengths: Row -> tokens of the answer up to and with the one that completed a stop string.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, strings: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._strings = tuple(strings)
        # A token stands for at least one byte.
        self._reach = max(len(string.encode()) for string in strings) + _SLACK
        self._prompt: int | None = None
        self.lengths: dict[int, int] = {}

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """Return whether each row is done, shape (rows,); `input_ids` has shape (rows, prompt and answer)."""
        if self._prompt is None:
            self._prompt = input_ids.shape[1] - 1
        tail = input_ids[:, max(self._prompt, input_ids.shape[1] - self._reach) :]
        texts = self._tokenizer.batch_decode(tail)
        done = [any(string in text for string in self._strings) for text in texts]
        for row in (row for row, ended in enumerate(done) if ended):
            self.lengths.setdefault(row, input_ids.shape[1] - self._prompt)
        return torch.tensor(done, device=input_ids.device)


def before_stop(text: str, strings: Sequence[str]) -> str:
    """Return the text up to the first stop string."""
    for string in strings:
        text = text.split(string, 1)[0]
    return text
