"""Every wrong input ends in an error that names the value, the rule and the way out, before any answer."""

import math
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from adaptvis_plugin.decoding import AdaptVis, Decoder, Method, ScalingVis
from adaptvis_plugin.models.arguments import ModelArguments
from tests.random_models import random_batch, random_model


@pytest.mark.parametrize("alpha", [-0.1, math.inf, math.nan, "0.5", None, True])
def test_alpha_must_be_finite_and_not_negative(alpha: Any) -> None:
    for build in (
        lambda: ScalingVis(alpha=alpha),
        lambda: AdaptVis(alpha, 1.5, 0.4),
        lambda: AdaptVis(0.5, alpha, 0.4),
        lambda: Decoder(random_model("llava")).sweep(random_batch(random_model("llava"), [3]), [alpha]),
    ):
        with pytest.raises(ValueError, match=r"alpha.*finite number >= 0"):
            build()


@pytest.mark.parametrize("threshold", [-0.01, 1.01, math.nan, "0.4", None])
def test_threshold_is_a_probability(threshold: Any) -> None:
    with pytest.raises(ValueError, match=r"threshold=.*\[0, 1\]"):
        AdaptVis(0.5, 1.5, threshold)


def test_reversed_coefficients_get_a_warning_once(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        AdaptVis(alpha_low=1.75, alpha_high=0.25, threshold=0.4)
    (record,) = caplog.records
    said = record.getMessage()
    assert record.levelname == "WARNING"
    assert "alpha_low=1.75 is above alpha_high=0.25: alpha_low is used where the model is unsure" in said


def test_coefficients_in_order_or_half_given_get_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    AdaptVis(0.5, 1.5, 0.4)
    AdaptVis(1.0, 1.0, 0.4)
    arguments = ModelArguments(method="adaptvis", pretrained="demo", alpha_low=1.3)
    assert not caplog.records, "the other coefficient is not known yet"
    arguments.choose("vsr")
    assert "alpha_low=1.3 is above alpha_high=1.2" in caplog.text


@pytest.mark.parametrize("options", [{"do_sample": True}, {"num_beams": 3}, {"do_sample": True, "temperature": 0.7}])
@pytest.mark.parametrize("method", [ScalingVis(alpha=0.5), ScalingVis(alpha=1.0)])
def test_sampling_and_beams_are_refused(options: dict[str, Any], method: Method) -> None:
    model = random_model("llava")
    with pytest.raises(ValueError, match="defined for greedy decoding"):
        Decoder(model).generate(random_batch(model, [3]), method, **options)


@pytest.mark.parametrize(
    "options", [{"use_cache": False}, {"cache_implementation": "static"}, {"prefill_chunk_size": 8}]
)
def test_other_caches_are_refused(options: dict[str, Any]) -> None:
    model = random_model("llava")
    with pytest.raises(ValueError, match=rf"{next(iter(options))}: .*fills a dynamic cache itself"):
        Decoder(model).generate(random_batch(model, [3]), ScalingVis(alpha=0.5), **options)


def test_truncated_image_tokens_are_named() -> None:
    model = random_model("llava")
    inputs = random_batch(model, [3])
    inputs["input_ids"], inputs["attention_mask"] = inputs["input_ids"][:, 4:], inputs["attention_mask"][:, 4:]
    with pytest.raises(ValueError, match=r"image tokens do not fit the images.*truncat"):
        Decoder(model).generate(inputs, ScalingVis(alpha=0.5))


def test_images_without_an_image_token_are_named() -> None:
    model = random_model("llava")
    inputs = random_batch(model, [3])
    inputs["input_ids"] = torch.full_like(inputs["input_ids"], 9)
    with pytest.raises(ValueError, match="no prompt holds the image token"):
        Decoder(model).generate(inputs, ScalingVis(alpha=0.5))


def test_right_padding_is_named() -> None:
    model = random_model("llava")
    inputs = random_batch(model, [3, 5])
    inputs["attention_mask"] = inputs["attention_mask"].flip(1)
    with pytest.raises(ValueError, match=r"rows \[0\] end in padding; pad on the left"):
        Decoder(model).generate(inputs, ScalingVis(alpha=0.5))


def test_a_text_only_model_is_refused() -> None:
    model = LlamaForCausalLM(LlamaConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=16))
    with pytest.raises(ValueError, match="LlamaForCausalLM has no image token"):
        Decoder(model)


def test_attention_outside_the_interface_is_refused() -> None:
    model = random_model("llava")
    layer = model.get_decoder().layers[1].self_attn

    class HomeMadeAttention(type(layer)):  # type: ignore[misc]
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return super().forward(*args, **kwargs)

    layer.__class__ = HomeMadeAttention
    with pytest.raises(ValueError, match="attention that cannot be steered: HomeMadeAttention does not use"):
        Decoder(model)
