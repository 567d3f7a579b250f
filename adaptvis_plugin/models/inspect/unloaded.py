"""A checkpoint's model without its weights: every shape and dtype, and no numbers.

transformers builds it on torch's meta device from config.json alone. The decoder's inspection looks at such a model as
at a loaded one, and the cache of a pass over it has the shapes of a real one, whatever a family's layers keep.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, DynamicCache, GenerationConfig, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import (
    Cache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionCacheLayerMixin,
)
from transformers.modeling_utils import get_state_dict_dtype, load_state_dict

from adaptvis_plugin.decoding.inspection import NO_CACHE
from adaptvis_plugin.models.arguments import ModelArguments
from adaptvis_plugin.models.checkpoint import local_folder
from adaptvis_plugin.models.loading import keep_softcap, naming, source


def build_model(arguments: ModelArguments, config: PreTrainedConfig) -> PreTrainedModel:
    """Build the model that `load_model` would load, without its weights.

    Args:
        arguments: Those that say which checkpoint, and how it is loaded.
        config: Its config.

    Raises:
        ValueError: If transformers cannot build it. Also OSError, ImportError and RuntimeError: see `load_model`.
    """
    options: dict[str, Any] = {"dtype": _dtype(arguments, config)}
    if arguments.attn_implementation is not None:
        options["attn_implementation"] = arguments.attn_implementation
    with naming(arguments, "the model cannot be built from its config.json"), torch.device("meta"):
        model: Any = AutoModelForImageTextToText.from_config(
            config, trust_remote_code=arguments.trust_remote_code, **options
        )
    with contextlib.suppress(OSError):  # without such a file, what config.json says holds, as in `from_pretrained`
        model.generation_config = GenerationConfig.from_pretrained(
            source(arguments), revision=arguments.revision or "main"
        )
    keep_softcap(model, arguments)
    built: PreTrainedModel = model.eval()
    return built


def _dtype(arguments: ModelArguments, config: PreTrainedConfig) -> torch.dtype:
    """Return the dtype in which `from_pretrained` loads a checkpoint."""
    named = config.dtype if arguments.dtype == "auto" else arguments.dtype
    if named is None:  # an old config: it is that of the stored weights, of which only the header is read
        folder = local_folder(arguments.pretrained)
        files = [] if folder is None else sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")])
        named = get_state_dict_dtype(load_state_dict(files[0], map_location="meta") if files else {})
    dtype: torch.dtype = getattr(torch, named) if isinstance(named, str) else named
    return dtype


def bytes_by_dtype(model: PreTrainedModel) -> dict[str, int]:
    """Return the memory of a model's parameters in bytes, by their dtype; shared ones count once."""
    sizes: Counter[str] = Counter()
    for parameter in model.parameters():
        sizes[str(parameter.dtype).removeprefix("torch.")] += parameter.nbytes
    return dict(sizes.most_common())


@torch.inference_mode()
def cache_after(model: PreTrainedModel, tokens: int) -> Cache:
    """Return the cache of one prompt after its prefill, by a pass of the text decoder.

    **Changes the model's kernels** to those that need no numbers. The cache is the same under each.

    Args:
        model: A model without weights.
        tokens: The length of the prompt.
    """
    model.set_attn_implementation("eager")
    model.set_experts_implementation("batched_mm")  # the others look which expert gets which token
    cache = DynamicCache(config=model.config.get_text_config(decoder=True))
    with torch.device("meta"):
        prompt = torch.zeros(1, tokens, dtype=torch.long)
        model.get_decoder()(input_ids=prompt, past_key_values=cache, use_cache=True)
    return cache


def cache_bytes(cache: Cache) -> int:
    """Return what a cache keeps in bytes: keys and values, and the states of layers that have those instead."""
    tensors = (tensor for layer in cache.layers for tensor in _tensors(vars(layer)))
    return sum(tensor.nbytes for tensor in tensors if tensor.is_floating_point())  # not a window's length


def cache_layers(cache: Cache) -> dict[str, int]:
    """Return how many layers keep what."""
    return dict(Counter(map(_kept, cache.layers)).most_common())


def _kept(layer: Any) -> str:
    if isinstance(layer, LinearAttentionCacheLayerMixin):
        return "a state and keys and values" if isinstance(layer, DynamicLayer) else "a state of fixed size"
    if isinstance(layer, DynamicSlidingWindowLayer):
        return f"keys and values of a window of {layer.sliding_window} tokens"
    if isinstance(layer, NO_CACHE):
        return "nothing of their own"
    return "keys and values" if isinstance(layer, DynamicLayer) else type(layer).__name__


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _tensors(part)
