"""Logits that are not finite are an error that names rows, dtype and the likely cause."""

import math

import pytest
import torch

from adaptvis_plugin.decoding import Baseline, Decoder, Method, NonFiniteLogitsError, ScalingVis
from tests.random_models import random_batch, random_model


@pytest.mark.parametrize("method", [Baseline(), ScalingVis(alpha=0.5)])
def test_weights_that_are_nan_are_named_at_the_first_batch(method: Method) -> None:
    model = random_model("llava")
    model.get_decoder().layers[1].mlp.down_proj.weight.data[3, 5] = math.nan
    with pytest.raises(NonFiniteLogitsError, match=r"rows \[0, 1\]: the logits of the first token are not") as caught:
        Decoder(model).generate(random_batch(model, [3, 5]), method)
    assert "torch.float32. Likely cause: the weights hold NaN or inf (a damaged checkpoint)" in str(caught.value)
    assert caught.value.rows == (0, 1)


def test_only_the_affected_rows_are_named() -> None:
    model = random_model("llava")
    inputs = random_batch(model, [3, 5, 4])
    inputs["pixel_values"][1] = math.inf
    with pytest.raises(NonFiniteLogitsError, match=r"rows \[1\]"):
        Decoder(model).generate(inputs, Baseline())


def test_a_coefficient_that_overflows_is_named_and_the_model_is_unchanged() -> None:
    model = random_model("llava", scale=30)
    with pytest.raises(NonFiniteLogitsError, match=r"first token under steering.*a coefficient is too large"):
        Decoder(model).generate(random_batch(model, [3]), ScalingVis(alpha=1e38))
    assert model.config.text_config._attn_implementation == "sdpa"
    assert not model._forward_hooks and not model._forward_pre_hooks


def test_float16_is_named_as_the_likely_cause() -> None:
    model = random_model("llava").half()
    inputs = random_batch(model, [3])
    inputs["pixel_values"] = inputs["pixel_values"].half()
    model.lm_head.weight.data *= 2e5
    with pytest.raises(NonFiniteLogitsError, match=r"float16 holds no value above 65504.*dtype=bfloat16"):
        Decoder(model).generate(inputs, ScalingVis(alpha=0.5))


def test_later_tokens_are_checked_too() -> None:
    model = random_model("llava")
    inputs = random_batch(model, [3])
    first = int(Decoder(model).generate(inputs, Baseline(), max_new_tokens=1).sequences[0, 0])
    assert not bool((inputs["input_ids"] == first).any())
    model.get_input_embeddings().weight.data[first] = math.nan
    with pytest.raises(NonFiniteLogitsError, match=r"rows \[0\]: the logits of a token after the first"):
        Decoder(model).generate(inputs, Baseline(), max_new_tokens=4)


def test_a_word_that_the_model_rules_out_is_not_an_error() -> None:
    model = random_model("llava")
    model.lm_head.register_forward_hook(
        lambda module, arguments, logits: logits.index_fill(-1, torch.tensor([9]), -math.inf)
    )
    assert Decoder(model).generate(random_batch(model, [3]), ScalingVis(alpha=0.5)).first_logits[0, 9] == -math.inf
