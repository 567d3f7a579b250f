"""In bf16 and fp16, steering loses no more precision than two complete passes do, and never overflows."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import torch
from transformers import LlavaConfig, LlavaForConditionalGeneration, Qwen2Config

from adaptvis_plugin.decoding import Baseline, Decoder
from tests.cases import Case, losses
from tests.families.check import same_tokens
from tests.random_models import IMAGE, random_batch, random_model

TEXTS = [5, 9, 3]
SEEDS = range(6)


def qwen2_model(seed: int) -> Any:
    """Return a LLaVA on Qwen2 with large biases on one rotary pair of queries and keys, as in its checkpoints.

    q.K^T is about 240 * 400 = 96,000, which is more than fp16 holds. Scaled and rotated by the positions, it fits.
    """
    plain = random_model("llava", kv_heads=2, seed=seed)
    shared = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    tokens = ("vocab_size", "max_position_embeddings", "bos_token_id", "eos_token_id", "pad_token_id")
    text = Qwen2Config(**{name: getattr(plain.config.text_config, name) for name in (*shared, *tokens)})
    config = LlavaConfig(
        vision_config=plain.config.vision_config, text_config=text, image_token_index=IMAGE, vision_feature_layer=-2
    )
    model: Any = LlavaForConditionalGeneration(config).eval()
    model.load_state_dict(plain.state_dict(), strict=False)
    for layer in model.get_decoder().layers:
        for projection, bias in ((layer.self_attn.q_proj, 240.0), (layer.self_attn.k_proj, 400.0)):
            with torch.no_grad():
                projection.bias.zero_().view(-1, 2, 8)[:, 0, -1] = bias  # the pair that rotates slowest
    model.generation_config = plain.generation_config
    return model


def llava_model(seed: int) -> Any:
    return random_model("llava", kv_heads=2, seed=seed)


def cases(build: Callable[[int], Any], seeds: Iterable[int] = SEEDS) -> Iterator[Case]:
    """Yield a model and a batch for each seed."""
    for seed in seeds:
        model = build(seed)
        yield Case(model, random_batch(model, TEXTS, seed=seed), IMAGE)


def unsteered_loss(dtype: torch.dtype, device: str = "cpu") -> float:
    """Return the mean difference of the unsteered logits with large biases from those in fp32."""
    total = 0.0
    for case in cases(qwen2_model):
        exact, found = (
            Decoder(case.model).generate(case.on(device, own).inputs, Baseline()).first_logits
            for own in (torch.float32, dtype)
        )
        total += float((found - exact).abs().mean())
    return total / len(SEEDS)


@pytest.mark.parametrize("alpha", [0.5, 1.5])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_steering_loses_no_more_than_two_complete_passes(dtype: torch.dtype, alpha: float) -> None:
    ours, eager = losses(cases(llava_model), dtype, alpha)
    # Both are rounding errors of the same prefill, so they differ only by chance: by 2% over these seeds, either way.
    assert ours <= 1.03 * eager


@pytest.mark.parametrize("alpha", [0.5, 0.999])
def test_with_large_biases_steering_loses_less_than_two_complete_passes(alpha: float) -> None:
    ours, eager = losses(cases(qwen2_model), torch.bfloat16, alpha)
    assert ours <= eager


@pytest.mark.parametrize("alpha", [0.5, 0.999, 1.001])
def test_large_biases_do_not_overflow_in_float16(alpha: float) -> None:
    """Two complete eager passes do overflow: their logits are NaN."""
    ours, eager = losses(cases(qwen2_model), torch.float16, alpha)
    assert eager != eager
    unsteered = unsteered_loss(torch.float16)
    assert ours <= 1.2 * unsteered, "steering adds almost nothing to what fp16 costs the unsteered model"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_unsteered_answers_of_a_sweep_are_those_of_generate(dtype: torch.dtype) -> None:
    for case in cases(llava_model):
        half = case.on("cpu", dtype)
        plain = Decoder(half.model).generate(half.inputs, Baseline(), max_new_tokens=6)
        swept = Decoder(half.model).sweep(half.inputs, [0.5, 1.5], max_new_tokens=6)[1.0]
        assert torch.equal(swept.confidence, plain.confidence)
        assert same_tokens(swept.sequences, plain.sequences)
