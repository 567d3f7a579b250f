"""Attention masks and positions in every form that `generate` accepts."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from adaptvis_plugin.decoding import Baseline, Decoder, ScalingVis
from tests import oracle
from tests.random_models import EOS, IMAGE, PAD, random_batch, random_model

TOLERANCE = 1e-5
ROOM = 2**30


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int32, torch.float32])
def test_masks_of_any_type_with_holes_mean_what_they_mean_to_generate(dtype: torch.dtype) -> None:
    """With cached prefixes: a hole that is taken for text would find, or leave, a wrong prefix."""
    model = random_model("llava", seed=3)
    decoder = Decoder(model, prefix_bytes=ROOM)
    inputs = random_batch(model, [6, 8], seed=3)
    for _ in range(2):
        decoder.generate(inputs, ScalingVis(alpha=0.5))
    assert decoder.stats.prefixes_reused == 2
    mask = inputs["attention_mask"].clone()
    mask[0, 5:7] = mask[1, -3] = 0
    holed = {**inputs, "attention_mask": mask}
    expected = oracle.scaling_vis(model, holed, IMAGE, torch.full((2,), 0.5), 5)
    plain = model.generate(**holed, max_new_tokens=5, do_sample=False)[:, mask.shape[1] :]

    given = {**holed, "attention_mask": mask.to(dtype)}
    out = decoder.generate(given, ScalingVis(alpha=0.5), max_new_tokens=5)
    torch.testing.assert_close(out.first_logits, expected.first_logits, atol=TOLERANCE, rtol=0)
    assert torch.equal(out.sequences, expected.sequences)
    assert torch.equal(decoder.generate(given, Baseline(), max_new_tokens=5).sequences, plain)
    whole = decoder.generate(inputs, ScalingVis(alpha=0.5), max_new_tokens=5)
    fresh = Decoder(model, prefix_bytes=0).generate(inputs, ScalingVis(alpha=0.5), max_new_tokens=5)
    torch.testing.assert_close(whole.first_logits, fresh.first_logits, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("pad", ["its own token", "the end token", "none"])
def test_without_a_mask_pads_are_masked_as_generate_masks_them(pad: str) -> None:
    model = random_model("llava", seed=5)
    inputs = random_batch(model, [3, 9], seed=5)
    del inputs["attention_mask"]
    if pad == "the end token":
        model.generation_config.pad_token_id = EOS
        inputs["input_ids"][inputs["input_ids"] == PAD] = EOS
    elif pad == "none":
        model.generation_config.pad_token_id = model.generation_config.eos_token_id = None
    plain = model.generate(
        **inputs, max_new_tokens=5, do_sample=False, output_logits=True, return_dict_in_generate=True
    )
    out = Decoder(model).generate(inputs, Baseline(), max_new_tokens=5)
    torch.testing.assert_close(out.first_logits, plain.logits[0], atol=TOLERANCE, rtol=0)
    assert torch.equal(out.sequences, plain.sequences[:, inputs["input_ids"].shape[1] :])
    ones = Decoder(model).sweep(inputs, [0.5], max_new_tokens=5)
    expected = (inputs["input_ids"] != PAD).long() if pad == "its own token" else torch.ones_like(inputs["input_ids"])
    masked = Decoder(model).sweep({**inputs, "attention_mask": expected}, [0.5], max_new_tokens=5)
    assert torch.equal(ones[0.5].first_logits, masked[0.5].first_logits)


def with_rope(kind: str) -> Any:
    model = random_model("llava", seed=7)
    config = model.config
    config.text_config.max_position_embeddings = 64
    config.text_config.rope_parameters = {"rope_type": kind, "rope_theta": 10000.0, "factor": 4.0}
    if kind == "longrope":
        half = config.text_config.head_dim // 2
        config.text_config.rope_parameters |= {
            "short_factor": [1.0] * half,
            "long_factor": [3.0] * half,
            "original_max_position_embeddings": 64,
        }
    changed = type(model)(config).eval()
    changed.load_state_dict(model.state_dict())
    changed.generation_config = model.generation_config
    return changed


@pytest.mark.parametrize("kind", ["linear", "dynamic", "longrope", "yarn"])
@pytest.mark.parametrize("texts", [[4, 9], [44, 40], [80, 70]], ids=["short", "answer past the length", "long"])
def test_scaled_rope_equals_that_of_transformers_or_is_refused(kind: str, texts: list[int]) -> None:
    model = with_rope(kind)
    fresh: Callable[[], Any] = lambda: with_rope(kind)  # noqa: E731  # free of what earlier passes left in the rope
    inputs = random_batch(model, texts, seed=7)
    decoder = Decoder(model)
    plain = fresh().generate(**inputs, max_new_tokens=6, do_sample=False)[:, inputs["input_ids"].shape[1] :]
    assert torch.equal(decoder.generate(inputs, Baseline(), max_new_tokens=6).sequences, plain)
    if kind == "dynamic" and texts[0] == 80:
        with pytest.raises(ValueError, match=r"a prompt of 97 tokens: past 64 positions this model's dynamic rope"):
            decoder.generate(inputs, ScalingVis(alpha=0.5))
        return
    for alpha, out in decoder.sweep(inputs, [0.5], max_new_tokens=6).items():
        expected = oracle.complete_pass(fresh(), inputs, IMAGE, torch.full((2,), alpha), 1)[0]
        torch.testing.assert_close(out.first_logits, expected, atol=TOLERANCE, rtol=0)


def test_a_mask_of_another_shape_is_named() -> None:
    model = random_model("llava")
    inputs = random_batch(model, [3])
    inputs["attention_mask"] = inputs["attention_mask"][:, None, None]
    with pytest.raises(ValueError, match=r"attention_mask has shape \(1, 1, 1, 20\) and input_ids \(1, 20\)"):
        Decoder(model).generate(inputs, ScalingVis(alpha=0.5))
