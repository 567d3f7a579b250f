"""Greedy decoding as an engine takes it, the same as that of transformers' `generate`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedTokenizerBase

from adaptvis_plugin.decoding.greedy import CACHE, GREEDY
from adaptvis_plugin.models.stopping import StopStrings
from adaptvis_plugin.models.validation import positive
from adaptvis_plugin.vllm.steering import Steering

if TYPE_CHECKING:
    from vllm import SamplingParams

TAKEN = ("max_new_tokens", "stop_strings", "repetition_penalty")
"""The options that an engine has, with the same effect."""

NOT_THERE = (
    "bad_words_ids", "begin_suppress_tokens", "encoder_no_repeat_ngram_size", "encoder_repetition_penalty",
    "exponential_decay_length_penalty", "forced_eos_token_id", "max_time", "min_length", "min_new_tokens",
    "no_repeat_ngram_size", "sequence_bias", "suppress_tokens", "watermarking_config",
)  # fmt: skip
"""Fields of a checkpoint's generation config that change greedy decoding, and that an engine lacks or takes otherwise.

vLLM has a minimum length too, but lets no stop string end an answer before it.
"""

_USUAL = {"max_new_tokens": 16}


@dataclass(frozen=True)
class Generation:
    """How answers are decoded.

    Attributes:
        max_new_tokens: The longest answer, in tokens.
        repetition_penalty: See transformers' option of that name.
        ends: The tokens that end an answer.
        stop: What else does; None if nothing.
    """

    max_new_tokens: int
    repetition_penalty: float
    ends: tuple[int, ...]
    stop: StopStrings | None

    @classmethod
    def of(cls, own: Mapping[str, Any], options: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> "Generation":
        """Return how the caller and the checkpoint want it.

        Args:
            own: The fields of the checkpoint's generation config that have a value.
            options: The caller's options, named as those of `Decoder.generate`.
            tokenizer: The model's.

        Raises:
            ValueError: If an option would not act as in transformers' `generate`.
        """
        neutral = {**GREEDY, **CACHE}
        for name, value in options.items():
            if name not in TAKEN and not (name in neutral and value == neutral[name]):
                raise ValueError(
                    f"{name}={value!r}: the engine decodes greedily with {', '.join(TAKEN)}, and has no such option, "
                    "or one that acts otherwise; leave it out, or use the same method without the engine (vlm_NAME)"
                )
        for name in NOT_THERE:
            if own.get(name):
                raise ValueError(
                    f"the checkpoint's generation_config.json says {name}={own[name]!r}, which the engine lacks or "
                    "takes otherwise; use the same method without the engine (vlm_NAME)"
                )
        given = {**_USUAL, **options}
        strings, ends = given.get("stop_strings") or (), own.get("eos_token_id")
        return cls(
            positive("max_new_tokens", given["max_new_tokens"]),
            given.get("repetition_penalty") or own.get("repetition_penalty") or 1.0,
            () if ends is None else (ends,) if isinstance(ends, int) else tuple(ends),
            StopStrings.of(tokenizer, [strings] if isinstance(strings, str) else strings, own.get("stop_strings")),
        )

    def first_token(self) -> "SamplingParams":
        """Return the parameters of a request for the first token alone, and how sure the model is of it."""
        return _parameters(max_tokens=1, logprobs=1)

    def answer(self, steering: Steering | None = None) -> "SamplingParams":
        """Return the parameters of a request for an answer.

        Args:
            steering: How it is steered; None for the plain model's, with how sure it is of the first token.
        """
        from vllm.sampling_params import RequestOutputKind

        return _parameters(
            max_tokens=self.max_new_tokens,
            repetition_penalty=float(self.repetition_penalty),
            stop_token_ids=list(self.ends),
            # Its log-probability tells whether the logits are finite.
            logprobs=1 if steering is None else 0,
            output_kind=RequestOutputKind.FINAL_ONLY if self.stop is None else RequestOutputKind.CUMULATIVE,
            extra_args=None if steering is None else steering.extra_args(),
        )

    def ended(self, tokens: Sequence[int]) -> bool:
        """Return whether a stop string ends an answer here, which the engine is not asked to look for.

        It would look in the text behind the prompt, where a blank may stand before the first word, and without the
        special tokens.
        """
        import torch

        return self.stop is not None and self.stop.hold_one(torch.tensor([list(tokens)]))[0]


def _parameters(**given: Any) -> "SamplingParams":
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    # The engine would also end at the tokenizer's own token, if the checkpoint's config names others.
    usual = {"temperature": 0.0, "ignore_eos": True, "detokenize": False, "output_kind": RequestOutputKind.FINAL_ONLY}
    return SamplingParams(**{**usual, **given})
