"""What the decoder has to know of a model, read off the model itself."""

from transformers import PreTrainedConfig, PreTrainedModel


def image_token_id(model: PreTrainedModel) -> int:
    """The id of the placeholder token that holds one image feature each.

    Raises:
        ValueError: if the model's config names none.
    """
    for name in ("image_token_id", "image_token_index"):
        value = getattr(model.config, name, None)
        if isinstance(value, int):
            return value
    raise ValueError(
        f"{type(model).__name__} has no image token (its config names neither image_token_id nor image_token_index), "
        "so there are no image columns to steer; use an image-text-to-text model"
    )


def decoder_configs(model: PreTrainedModel) -> list[PreTrainedConfig]:
    """The distinct configs that the layers of the text decoder read their attention implementation from.

    Raises:
        ValueError: if the text decoder does not use transformers' attention interface.
    """
    decoder = model.get_decoder()
    if model.config.is_encoder_decoder or not _routes_attention(decoder):
        raise ValueError(
            f"{type(model).__name__}: attention that cannot be steered. Its text decoder ({type(decoder).__name__}) must be "
            "decoder-only and use transformers' attention interface"
        )
    configs = (getattr(module, "config", None) for module in decoder.modules())
    return list({id(config): config for config in configs if isinstance(config, PreTrainedConfig)}.values())


def decoder_layers(model: PreTrainedModel) -> int:
    """The number of attention layers in the text decoder."""
    layers = {getattr(module, "layer_idx", None) for module in model.get_decoder().modules()}
    return len(layers - {None})


def _routes_attention(decoder: object) -> bool:
    check = getattr(type(decoder), "_can_set_attn_implementation", None)
    return bool(check and check())
