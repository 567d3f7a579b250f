"""What the decoder has to know of a model, read off the model itself.

No family is listed by name. A model is refused where steering would not be exact, with the reason:

- no image token: nothing in the prompt stands for the image;
- encoder-decoder, or a text decoder with cross-attention: the image is not among the columns of its self-attention;
- a `generate` of its own: it feeds another model than the one that was handed over;
- attention outside transformers' attention interface, or with arguments whose effect the steered row would lack.

Where steering is exact, two things decide how much it costs. One prefill is enough if no other token sees the last
one, which the masks of the prefill itself tell, and if the cache can take its last position back, which the cache
tells; recurrent states cannot. Otherwise two complete passes are made.
"""

import ast
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import GenerationMixin, PreTrainedConfig, PreTrainedModel

# What a layer may hand to its attention function by name. Applied by the steered row: scaling, softcap, s_aux. Without
# effect on it: dropout (0 outside training), is_causal (the last row sees every column), sliding_window (the mask
# already says so), position_ids (for packed sequences in flash attention).
_UNDERSTOOD = {"scaling", "softcap", "s_aux", "dropout", "is_causal", "sliding_window", "position_ids"}
# What a family's eager attention may read off its layer: neither changes the formula.
_HARMLESS_ATTRIBUTES = {"num_key_value_groups", "training", "head_dim"}
_FOREIGN_STATES = {"cross_attention_states", "encoder_hidden_states", "key_value_states", "image_hidden_states"}
_RECURRENT = {"linear_attention", "hybrid", "hybrid_sliding"}
_REFUSED = "it cannot be steered exactly and is refused"


@dataclass(frozen=True)
class TextDecoder:
    """The part of a model that is steered.

    Attributes:
        image_token_id: id of the placeholder that holds one image feature each. **Image columns are the positions that
            hold this id, and no others.** Features that stand for the end of a row of patches (LLaVA-NeXT's newline)
            take such a position and count; separators, row and tile markers, and begin- or end-of-image tokens that
            are words of the vocabulary do not; video tokens have an id of their own and do not.
        module: the text decoder itself.
        attention: its attention layers, every one of which must be steered.
        configs: the distinct configs from which those layers and their masks read the attention implementation.
        recurrent: whether some layers keep a state that cannot take a position back. They have no attention logits, so
            there is nothing to steer in them.
        dynamic_rope_limit: the number of positions past which a dynamic rope changes its frequencies with the longest
            prompt seen so far; None for any other rope.
    """

    image_token_id: int
    module: nn.Module
    attention: frozenset[nn.Module]
    configs: tuple[PreTrainedConfig, ...]
    recurrent: bool
    dynamic_rope_limit: int | None = None


def unwrapped(model: nn.Module) -> PreTrainedModel:
    """The model of transformers inside the wrappers of `torch.compile` and PEFT.

    `generate` of a compiled wrapper runs the model inside it uncompiled, and so do we. PEFT's adapters are in the
    layers of the model inside.

    Raises:
        ValueError: if what is inside is no such model, is compiled itself, or is prompted by learned tokens that only
            PEFT's own `generate` adds.
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
            "hand over the model as it was before torch.compile (a compiled vision tower may stay)"
        )
    return model


def _is_compiled(module: nn.Module) -> bool:
    return (
        hasattr(module, "_orig_mod")
        or getattr(module, "_compiled_call_impl", None) is not None
        or hasattr(vars(module).get("forward"), "_torchdynamo_orig_callable")
    )


def inspect_model(model: PreTrainedModel) -> TextDecoder:
    """Find the text decoder and what steering needs of it.

    Raises:
        ValueError: if steering would not be exact; the message says why.
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
        raise ValueError(f"{name} brings its own generate, which runs a part of the model by itself; {_REFUSED}")
    decoder = model.get_decoder()
    kinds = {type(module) for module in decoder.modules()}
    foreign = sorted(kind.__name__ for kind in kinds if _attends_elsewhere(kind))
    if foreign:
        raise ValueError(f"{name}: its text decoder has cross-attention ({', '.join(foreign)}); {_REFUSED}")
    arguments = {kind: names for kind in kinds if (names := _arguments(kind)) is not None}
    attention = frozenset(module for module in decoder.modules() if type(module) in arguments)
    by_hand = sorted({type(module).__name__ for module in decoder.modules() if _by_hand(module, attention)})
    if by_hand or not attention:
        what = ", ".join(by_hand) or type(decoder).__name__
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
    text = model.config.get_text_config(decoder=True)
    configs = [
        module.config for module in decoder.modules() if isinstance(getattr(module, "config", None), PreTrainedConfig)
    ]
    return TextDecoder(
        image_token_id=image_token,
        module=decoder,
        attention=attention,
        configs=tuple({id(config): config for config in [text, *configs]}.values()),
        recurrent=bool(_RECURRENT & set(getattr(text, "layer_types", None) or ())),
        dynamic_rope_limit=min(
            (
                rope.get("original_max_position_embeddings") or text.max_position_embeddings
                for rope in ropes(text)
                if rope.get("rope_type") == "dynamic"
            ),
            default=None,
        ),
    )


def ropes(text: PreTrainedConfig) -> Iterator[dict[str, Any]]:
    """The parameters of a text decoder's rotary embeddings: one set, or one for each kind of layer."""
    parameters = getattr(text, "rope_parameters", None) or {}
    yield from (part for part in (parameters, *parameters.values()) if isinstance(part, dict))


def image_token_id(config: PreTrainedConfig) -> int | None:
    """The id of the image placeholder, or None if the config names none."""
    for name in ("image_token_id", "image_token_index"):
        value = getattr(config, name, None)
        if isinstance(value, int):
            return value
    return None


def _arguments(kind: Any) -> frozenset[str] | None:
    """The names of what a layer hands to its attention function; None if the class does not call one.

    Includes what the family's eager attention function takes or reads off the layer beyond that.
    """
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(kind.forward)))
    except (OSError, TypeError):  # no source: nothing can be said of it, so it does not count as steerable
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
        # GPT-OSS reads the sinks off the layer in eager attention, and hands the same to every other kernel.
        names |= read - _HARMLESS_ATTRIBUTES - ({"sinks"} if "s_aux" in names else set())
    return frozenset(names)


def _name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else ""


def _generates_as_a_whole(kind: Any) -> bool:
    """Whether `generate` is transformers' own, perhaps with something before or after it."""
    return kind.generate is GenerationMixin.generate or "super().generate(" in inspect.getsource(kind.generate)


def _attends_elsewhere(kind: Any) -> bool:
    return bool(_FOREIGN_STATES & set(inspect.signature(kind.forward).parameters))


def _by_hand(module: nn.Module, attention: frozenset[nn.Module]) -> bool:
    """Whether a module is softmax attention of its own making: not routed, nor around a routed one, nor linear."""
    name = type(module).__name__
    return (
        "Attention" in name
        and "LinearAttention" not in name
        and not any(part in attention for part in module.modules())
    )
