"""Greedy decoding: the checkpoint's generation config made greedy, with the caller's options."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from transformers import GenerationConfig, PreTrainedModel
from transformers.generation.configuration_utils import GenerationMode
from transformers.generation.utils import GenerateDecoderOnlyOutput

GREEDY: dict[str, Any] = {
    "do_sample": False,
    "num_beams": 1,
    "num_beam_groups": None,
    "num_return_sequences": 1,
    "temperature": None,
    "top_p": None,
    "top_k": None,
    "penalty_alpha": None,
    "dola_layers": None,
    "use_mtp": None,
    "prompt_lookup_num_tokens": None,
    "assistant_early_exit": None,
    "constraints": None,
    "force_words_ids": None,
    "guidance_scale": None,
    "token_healing": None,
    "max_length": None,
    "return_dict_in_generate": True,
}
"""Fields of a generation config that choose another decoding than greedy, with their values for greedy decoding.

Logits processors (a repetition penalty, suppressed tokens) are part of a checkpoint's greedy decoding and stay."""

CACHE: dict[str, Any] = {
    "use_cache": True,
    "cache_implementation": None,
    "cache_config": None,
    "prefill_chunk_size": None,
}
"""Those that choose the cache: a dynamic one, filled in one piece."""

_PER_TOKEN = ("logits_processor", "stopping_criteria", "prefix_allowed_tokens_fn", "tokenizer")
_RESERVED = (
    "generation_config", "custom_generate", "assistant_model", "streamer", "return_dict_in_generate", "past_key_values",
)  # fmt: skip


@dataclass(frozen=True)
class Greedy:
    """How `generate` is called to decode greedily.

    Attributes:
        config: The generation config.
        options: The caller's options that are not part of a config (`tokenizer`, `logits_processor` and the like).
    """

    config: GenerationConfig
    options: Mapping[str, Any]

    @classmethod
    def of(cls, own: GenerationConfig, max_new_tokens: int, options: Mapping[str, Any]) -> "Greedy":
        """Make a checkpoint's generation config greedy, and add the caller's options.

        What the checkpoint says about sampling, beams and caches is ignored. If the caller asks for them, it is an
        error.

        Args:
            own: The checkpoint's config. It is not changed.
            max_new_tokens: Upper bound on the answer's length in tokens.
            options: The caller's options of `generate`.

        Raises:
            ValueError: If an option asks for another decoding mode than greedy, or for another cache.
        """
        for name, value in options.items():
            if name in _RESERVED:
                raise ValueError(f"{name}: the decoder sets it itself; leave it out")
            if name in CACHE and value != CACHE[name]:
                raise ValueError(f"{name}: the decoder fills a dynamic cache itself, in one piece; leave it out")
        config = _Complete(**own.to_dict())  # type: ignore[no-untyped-call]
        GenerationConfig.update(config, **own._get_default_generation_params(), defaults_only=True)
        config.update(**GREEDY, **CACHE, max_new_tokens=max_new_tokens)
        beside = config.update(**options)
        if (
            config.get_generation_mode() != GenerationMode.GREEDY_SEARCH
            or config.num_return_sequences != 1
            or config.guidance_scale not in (None, 1)
        ):
            asked = ", ".join(f"{name}={value!r}" for name, value in options.items())
            raise ValueError(
                f"{asked}: the steering methods are defined for greedy decoding; leave sampling and beams out"
            )
        if config.pad_token_id is None:
            eos = config.eos_token_id
            config.pad_token_id = eos[0] if isinstance(eos, list) else eos
        return cls(config, beside)

    def one_token(self) -> "Greedy":
        """Return the same for a pass that only fills the cache; its token is never an answer.

        The caller's processors and stopping criteria are left out, because they may count their calls.
        """
        config = copy.deepcopy(self.config)
        config.update(max_new_tokens=1, min_new_tokens=None, min_length=0, stop_strings=None)
        return Greedy(config, {name: value for name, value in self.options.items() if name not in _PER_TOKEN})

    def by_branch(self, branches: int) -> "Greedy":
        """Return the same for a call with several rows for each prompt, which follow each other."""
        allowed = self.options.get("prefix_allowed_tokens_fn")
        if allowed is None:
            return self
        options = {**self.options, "prefix_allowed_tokens_fn": lambda row, ids: allowed(row // branches, ids)}
        return Greedy(self.config, options)

    def generate(self, model: PreTrainedModel, inputs: Mapping[str, Any]) -> GenerateDecoderOnlyOutput:
        """Call the model's `generate`."""
        output = cast(Any, model).generate(**inputs, generation_config=self.config, **self.options)
        return cast(GenerateDecoderOnlyOutput, output)


class _Complete(GenerationConfig):
    """A complete config: `generate` would otherwise fill every None in it from the checkpoint's own config."""

    def update(self, defaults_only: bool = False, allow_custom_entries: bool = False, **values: Any) -> dict[str, Any]:
        """Set what the caller asks for; take no defaults."""
        if defaults_only:
            return {}
        unused: dict[str, Any] = super().update(False, allow_custom_entries, **values)  # type: ignore[no-untyped-call]
        return unused
