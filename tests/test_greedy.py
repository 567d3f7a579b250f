"""Decoding is greedy whatever a checkpoint asks for; if the caller asks for anything else, it is refused."""

from typing import Any

import pytest
import torch

from adaptvis_plugin.decoding import Baseline, Decoder, ScalingVis
from tests.families import FAMILIES
from tests.families.build import NOT_TEXT
from tests.families.build import random_batch as family_batch
from tests.families.build import random_model as family_model
from tests.random_models import random_batch, random_model


@pytest.mark.parametrize(
    "name", ["generation_config", "streamer", "assistant_model", "custom_generate", "past_key_values"]
)
def test_options_that_the_decoder_sets_itself_are_refused(name: str) -> None:
    model = random_model("llava")
    option: dict[str, Any] = {name: object()}
    with pytest.raises(ValueError, match=f"{name}: the decoder sets it itself; leave it out"):
        Decoder(model).generate(random_batch(model, [3]), ScalingVis(alpha=0.5), **option)


FROM_CHECKPOINTS: list[dict[str, Any]] = [
    {"cache_implementation": "hybrid"},  # Gemma 3 as published
    {"cache_implementation": "static"},
    {"prefill_chunk_size": 8},
    {"use_cache": False},
    {"do_sample": True, "temperature": 0.3, "top_p": 0.9, "top_k": 64},
    {"num_beams": 4, "num_return_sequences": 2},
    {"penalty_alpha": 0.6, "top_k": 4},
    {"prompt_lookup_num_tokens": 3},
    {"dola_layers": "high"},
    {"guidance_scale": 5},
    {"max_length": 2},
    {"return_dict_in_generate": False},
]


@pytest.mark.parametrize("fields", FROM_CHECKPOINTS, ids=str)
@pytest.mark.parametrize("name", ["llava", "gemma3"])
def test_a_checkpoints_other_decoding_modes_have_no_effect(name: str, fields: dict[str, Any]) -> None:
    model = family_model(FAMILIES[name])
    inputs = family_batch(FAMILIES[name], [3, 5, 4])
    options: dict[str, Any] = {"max_new_tokens": 5, "suppress_tokens": NOT_TEXT}
    greedy = [Decoder(model).generate(inputs, method, **options) for method in (ScalingVis(alpha=0.5), Baseline())]
    model.generation_config.update(**fields)
    before = model.generation_config.to_dict()
    for expected, method in zip(greedy, (ScalingVis(alpha=0.5), Baseline()), strict=True):
        out = Decoder(model).generate(inputs, method, **options)
        assert torch.equal(out.sequences, expected.sequences)
        assert torch.equal(out.first_logits, expected.first_logits)
    assert model.generation_config.to_dict() == before


def test_a_processor_of_the_caller_sees_only_the_answer() -> None:
    """If the pass that only fills the cache called it too, a processor that counts its calls would be one ahead."""
    model = random_model("llava", seed=9)
    inputs = random_batch(model, [9, 12], seed=9)
    lengths: list[int] = []

    def count(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        lengths.append(ids.shape[1])
        return scores

    out = Decoder(model).generate(inputs, ScalingVis(alpha=0.5), max_new_tokens=4, logits_processor=[count])
    start = inputs["input_ids"].shape[1]
    assert lengths == list(range(start, start + out.sequences.shape[1]))


def test_confidence_comes_from_the_raw_logits_and_the_answer_from_the_processed_ones() -> None:
    """Qwen2.5-VL's checkpoints have a repetition penalty; the paper's confidence is what the model itself thinks."""
    model = random_model("llava", seed=9)
    model.generation_config.repetition_penalty = 3.0
    model.lm_head.weight.data *= 4  # a surer model
    inputs = random_batch(model, [9, 12], seed=9)
    likely = Decoder(model).generate(inputs, Baseline(), max_new_tokens=1).sequences[:, 0]
    inputs["input_ids"][:, -2] = likely  # which the penalty then weakens
    plain = model.generate(
        **inputs,
        max_new_tokens=4,
        do_sample=False,
        output_logits=True,
        output_scores=True,
        return_dict_in_generate=True,
    )
    out = Decoder(model).generate(inputs, Baseline(), max_new_tokens=4)
    raw, processed = (scores[0].softmax(-1).amax(-1) for scores in (plain.logits, plain.scores))
    assert (raw - processed).abs().max() > 0.01, "the penalty must be visible"
    torch.testing.assert_close(out.confidence, raw, atol=1e-6, rtol=0)
    assert torch.equal(out.sequences, plain.sequences[:, inputs["input_ids"].shape[1] :])
    steered = Decoder(model).generate(inputs, ScalingVis(alpha=0.5), max_new_tokens=4)
    torch.testing.assert_close(steered.confidence, raw, atol=1e-6, rtol=0)
