"""What the decoder must know about a model, found by looking at the model itself.

No family is listed by name. A model is refused, with the reason, if steering would not be exact:

- no image token: nothing in the prompt stands for the image;
- encoder-decoder, or a text decoder with cross-attention: the image is not among the columns of its self-attention;
- its own `generate`: it runs another model than the one that was given;
- attention outside transformers' attention interface, or with arguments that the steered row would not apply.

If steering is exact, one question decides what it costs: whether copies of the last prompt token can ride in the
unsteered pass (see `packing`). They cannot if other tokens see the last one, which the masks of the pass tell, or if a
layer keeps a state that the copies would change. Otherwise a second complete pass is made.
"""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import DynamicCache, GenerationMixin, PreTrainedConfig, PreTrainedModel, cache_utils
from transformers.cache_utils import DynamicLayer, LinearAttentionCacheLayerMixin

NO_CACHE: Any = getattr(cache_utils, "DummyLayer", ())
"""The class of a cache's layers that keep nothing; transformers before 5.20 leaves such layers out."""

# What a layer may hand to its attention function by name. The steered row applies scaling, softcap and s_aux. The
# others have no effect on it: dropout (0 outside training), is_causal (the last row sees every column), sliding_window
# (the mask already says so), position_ids (for packed sequences in flash attention).
_UNDERSTOOD = {"scaling", "softcap", "s_aux", "dropout", "is_causal", "sliding_window", "position_ids"}
# What a family's eager attention may read from its layer without changing the formula.
_HARMLESS_ATTRIBUTES = {"num_key_value_groups", "training", "head_dim"}
_FOREIGN_STATES = {"cross_attention_states", "encoder_hidden_states", "key_value_states", "image_hidden_states"}
_REFUSED = "it cannot be steered exactly and is refused"


@dataclass(frozen=True)
class TextDecoder:
    """The part of a model that is steered.

    Attributes:
        image_token_id: The id of the placeholder that stands for one image feature. **Image columns are the positions
            that hold this id, and no others.** Features that stand for the end of a row of patches (LLaVA-NeXT's
            newline) take such a position and count. Separators, row and tile markers, and begin- or end-of-image tokens
            are words of the vocabulary and do not. Video tokens have another id and do not.
        module: The text decoder itself.
        embed: The model's input embeddings.
        layers: The attention layers, all of which are steered, in order, each with its number in the model.
        depth: The number of layers of any kind.
        heads: The number of heads in each attention layer.
        configs: The distinct configs from which those layers and their masks read the attention implementation.
        placeholders: The ids of the placeholders of every kind: image, video and audio.
        recurrent: Whether some layers keep a state beside keys and values (linear attention, convolutions), which
            copies of a token would change. They have no attention logits, so there is nothing to steer in them.
        dynamic_rope_limit: The number of positions past which a dynamic rope changes its frequencies with the longest
            prompt seen so far. None for any other rope.
        query_scale_step: The number of tokens after which the scale of the queries changes with their index in the
            batch, not with their position (Llama 4). None if it never does.
    """

    image_token_id: int
    module: nn.Module
    embed: nn.Module
    layers: Mapping[nn.Module, int]
    depth: int
    heads: int
    configs: tuple[PreTrainedConfig, ...]
    placeholders: frozenset[int]
    recurrent: bool
    dynamic_rope_limit: int | None = None
    query_scale_step: int | None = None

    @property
    def attention(self) -> Set[nn.Module]:
        """The attention layers."""
        return self.layers.keys()


def unwrapped(model: nn.Module) -> PreTrainedModel:
    """Return the transformers model inside the wrappers of `torch.compile` and PEFT.

    `generate` of a compiled wrapper runs the model inside it uncompiled, and so does the decoder. PEFT's adapters are
    in the layers of the model inside.

    Raises:
        ValueError: If the model inside is not a transformers model, is compiled itself, or needs learned prompt tokens
            that only PEFT's own `generate` adds.
    """
    name = type(model).__name__
    model = getattr(model, "_orig_mod", model)
    base = getattr(model, "get_base_model", None)
    if base is not None:
        if getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
            raise ValueError(
                f"{name}: its adapter adds learned tokens to the prompt, which are not part of the model; adapters in "
                "the layers (LoRA and the like) can be steered"
            )
        model = base()
    if not isinstance(model, PreTrainedModel):
        inside = "; hand over its .module" if isinstance(getattr(model, "module", None), PreTrainedModel) else ""
        raise ValueError(f"{name} is not a model of transformers{inside or '; use an image-text-to-text model'}")
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else None
    parts = [model] if decoder is None else [model, *decoder.modules()]
    compiled = sorted({type(part).__name__ for part in parts if _is_compiled(part)})
    if compiled:
        raise ValueError(
            f"{name}: {', '.join(compiled)} is compiled, and compiled code keeps the attention it was compiled with; "
            "hand over the model from before torch.compile (a compiled vision tower may stay)"
        )
    return model


def _is_compiled(module: nn.Module) -> bool:
    return (
        hasattr(module, "_orig_mod")
        or getattr(module, "_compiled_call_impl", None) is not None
        or hasattr(vars(module).get("forward"), "_torchdynamo_orig_callable")
    )


def inspect_model(model: PreTrainedModel) -> TextDecoder:
    """Find the text decoder and what steering needs to know about it.

    Raises:
        ValueError: If steering would not be exact. The message says why.
    """
    name = type(model).__name__
    image_token = image_token_id(model.config)
    if model.config.is_encoder_decoder:
        raise ValueError(
            f"{name} is an encoder-decoder: its answers look at the prompt through cross-attention; {_REFUSED}"
        )
    if image_token is None:
        raise ValueError(
            f"{name} has no image token (its config names neither image_token_id nor image_token_index), "
            "so there are no image columns to steer; use an image-text-to-text model"
        )
    if not _generates_as_a_whole(type(model)):
        raise ValueError(f"{name} has its own generate, which runs a part of the model by itself; {_REFUSED}")
    decoder = model.get_decoder()
    kinds = {type(module) for module in decoder.modules()}
    foreign = sorted(kind.__name__ for kind in kinds if _attends_elsewhere(kind))
    if foreign:
        raise ValueError(f"{name}: its text decoder has cross-attention ({', '.join(foreign)}); {_REFUSED}")
    arguments = {kind: names for kind in kinds if (names := _arguments(kind)) is not None}
    attention = [module for module in decoder.modules() if type(module) in arguments]
    unrouted = sorted({type(module).__name__ for module in decoder.modules() if _is_unrouted(module, {*attention})})
    if unrouted or not attention:
        what = ", ".join(unrouted) or type(decoder).__name__
        raise ValueError(
            f"{name}: attention that cannot be steered: {what} does not use transformers' attention interface; "
            f"{_REFUSED}"
        )
    for kind, names in arguments.items():
        if unknown := ", ".join(sorted(names - _UNDERSTOOD)):
            raise ValueError(
                f"{name}: {kind.__name__} hands {unknown} to its attention function, which the steered row would not "
                f"apply; {_REFUSED}"
            )
    if loses_softcap(model):
        raise ValueError(
            f"{name} squashes its attention logits (softcap), which attn_implementation='sdpa' leaves out; load it "
            "with attn_implementation='eager'"
        )
    text = model.config.get_text_config(decoder=True)
    configs = [
        module.config for module in decoder.modules() if isinstance(getattr(module, "config", None), PreTrainedConfig)
    ]
    return TextDecoder(
        image_token_id=image_token,
        module=decoder,
        embed=model.get_input_embeddings(),
        layers=dict(sorted(((m, getattr(m, "layer_idx", i)) for i, m in enumerate(attention)), key=lambda one: one[1])),
        depth=text.num_hidden_layers,
        heads=text.num_attention_heads,
        configs=tuple({id(config): config for config in [text, *configs]}.values()),
        placeholders=frozenset(
            value
            for name in dir(model.config)
            if re.fullmatch(r"(image|video|audio)_token_(id|index)", name)
            and isinstance(value := getattr(model.config, name), int)
        ),
        recurrent=any(
            not isinstance(layer, (DynamicLayer, NO_CACHE)) or isinstance(layer, LinearAttentionCacheLayerMixin)
            for layer in DynamicCache(config=text).layers
        ),
        dynamic_rope_limit=min(
            (
                rope.get("original_max_position_embeddings") or text.max_position_embeddings
                for rope in ropes(text)
                if rope.get("rope_type") == "dynamic"
            ),
            default=None,
        ),
        query_scale_step=getattr(text, "floor_scale", None) if getattr(text, "attn_temperature_tuning", None) else None,
    )


def loses_softcap(model: PreTrainedModel) -> bool:
    """Return whether the text decoder has a softcap that its attention function leaves out without a word.

    That is sdpa in transformers before 5.21, which refuses it.
    """
    text = model.config.get_text_config(decoder=True)
    return text._attn_implementation == "sdpa" and has_softcap(text)


def has_softcap(text: PreTrainedConfig) -> bool:
    """Return whether a text decoder squashes its attention logits, which sdpa cannot do."""
    return getattr(text, "attn_logit_softcapping", None) is not None


def ropes(text: PreTrainedConfig) -> Iterator[dict[str, Any]]:
    """Yield the parameters of a text decoder's rotary embeddings: one set, or one for each kind of layer."""
    parameters = getattr(text, "rope_parameters", None) or {}
    yield from (part for part in (parameters, *parameters.values()) if isinstance(part, dict))


def image_token_id(config: PreTrainedConfig) -> int | None:
    """Return the id of the image placeholder, or None if the config names none."""
    for name in ("image_token_id", "image_token_index"):
        value = getattr(config, name, None)
        if isinstance(value, int):
            return value
    return None


def _arguments(kind: Any) -> frozenset[str] | None:
    """Return the names of the arguments that a layer hands to its attention function; None if it does not call one.

    Includes what the family's eager attention function reads from the layer beyond that.
    """
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(kind.forward)))
    except (OSError, TypeError):  # without its source, a layer does not count as steerable
        return None
    calls = [
        node for node in ast.walk(tree) if isinstance(node, ast.Call) and _name(node.func) == "attention_interface"
    ]
    if not calls:
        return None
    names = {keyword.arg for call in calls for keyword in call.keywords if keyword.arg is not None}
    eager = getattr(inspect.getmodule(kind), "eager_attention_forward", None)
    if eager is not None:
        read = {
            node.attr
            for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(eager))))
            if isinstance(node, ast.Attribute) and _name(node.value) == "module"
        }
        # In eager attention GPT-OSS reads the sinks from the layer; every other kernel is handed them as s_aux.
        names |= read - _HARMLESS_ATTRIBUTES - ({"sinks"} if "s_aux" in names else set())
    return frozenset(names)


def _name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else ""


def _generates_as_a_whole(kind: Any) -> bool:
    """Whether `generate` is transformers' own, possibly with something before or after it."""
    return kind.generate is GenerationMixin.generate or "super().generate(" in inspect.getsource(kind.generate)


def _attends_elsewhere(kind: Any) -> bool:
    return bool(_FOREIGN_STATES & set(inspect.signature(kind.forward).parameters))


def _is_unrouted(module: nn.Module, attention: Set[nn.Module]) -> bool:
    """Whether a module is softmax attention outside the interface: it is not linear, and no part of it is routed."""
    name = type(module).__name__
    return (
        "Attention" in name
        and "LinearAttention" not in name
        and not any(part in attention for part in module.modules())
    )
