"""The generation config of a decoding: the checkpoint's own, made greedy, with the caller's options."""

import copy
from collections.abc import Mapping
from typing import Any

from transformers import GenerationConfig
from transformers.generation.configuration_utils import GenerationMode

# What a checkpoint may bring that is not greedy decoding with a dynamic cache, filled in one piece. Its logits
# processors (a repetition penalty, suppressed tokens) are part of its greedy decoding and stay.
_NEUTRAL: dict[str, Any] = {
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
    "use_cache": True,
    "cache_implementation": None,
    "cache_config": None,
    "prefill_chunk_size": None,
    "max_length": None,
    "return_dict_in_generate": True,
}
_CACHE = ("use_cache", "cache_implementation", "cache_config", "prefill_chunk_size", "past_key_values")
_PER_TOKEN = ("logits_processor", "stopping_criteria", "prefix_allowed_tokens_fn", "tokenizer")
_RESERVED = ("generation_config", "custom_generate", "assistant_model", "streamer", "return_dict_in_generate")


class _Complete(GenerationConfig):
    """A config that is complete: `generate` would fill what is None in it from the checkpoint's own."""

    def update(self, defaults_only: bool = False, allow_custom_entries: bool = False, **values: Any) -> dict[str, Any]:
        """Set what the caller asks for; take no defaults."""
        if defaults_only:
            return {}
        unused: dict[str, Any] = super().update(False, allow_custom_entries, **values)  # type: ignore[no-untyped-call]
        return unused


def greedy_config(
    own: GenerationConfig, max_new_tokens: int, options: Mapping[str, Any]
) -> tuple[GenerationConfig, dict[str, Any]]:
    """The config of a greedy decoding, and the caller's options that belong beside it.

    What the checkpoint's config says of sampling, beams and caches has no effect; what the caller says of them is an
    error.

    Args:
        own: the checkpoint's config; it stays as it is.
        max_new_tokens: upper bound on the answer's length in tokens.
        options: the caller's options of `generate`.

    Returns:
        The config, and the options that are not the config's (`tokenizer`, `logits_processor` and the like).

    Raises:
        ValueError: if an option asks for another decoding mode than greedy, or for another cache.
    """
    for name in options:
        if name in _RESERVED:
            raise ValueError(f"{name}: the decoder sets it itself; leave it out")
        if name in _CACHE and options[name] != _NEUTRAL.get(name):
            raise ValueError(f"{name}: the decoder fills a dynamic cache itself, in one piece; leave it out")
    config = _Complete(**own.to_dict())  # type: ignore[no-untyped-call]
    GenerationConfig.update(config, **own._get_default_generation_params(), defaults_only=True)
    config.update(**_NEUTRAL, max_new_tokens=max_new_tokens)
    beside = config.update(**options)
    if (
        config.get_generation_mode() != GenerationMode.GREEDY_SEARCH
        or config.num_return_sequences != 1
        or config.guidance_scale not in (None, 1)
    ):
        asked = ", ".join(f"{name}={value!r}" for name, value in options.items())
        raise ValueError(f"{asked}: the steering methods are defined for greedy decoding; leave sampling and beams out")
    if config.pad_token_id is None:
        eos = config.eos_token_id
        config.pad_token_id = eos[0] if isinstance(eos, list) else eos
    return config, beside


def one_token(config: GenerationConfig, beside: Mapping[str, Any]) -> tuple[GenerationConfig, dict[str, Any]]:
    """The same for a pass that only fills the cache: its token is never an answer, so nothing looks at it.

    The caller's processors and criteria are left out: they may count their calls.
    """
    config = copy.deepcopy(config)
    config.update(max_new_tokens=1, min_new_tokens=None, min_length=0, stop_strings=None)
    return config, {name: value for name, value in beside.items() if name not in _PER_TOKEN}
