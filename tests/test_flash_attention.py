"""Models that use flash attention, with the kernel's functions computed on the CPU (see `flash_on_cpu`).

This shows that transformers' own code around the kernel, and the decoder on top of it, do the right thing: the layout
of queries, keys and values, padding taken out and put back, no mask where there is no padding, positions that are not
mistaken for several sequences, grouped heads, sliding windows and softcaps. It cannot show anything about the CUDA
kernel itself: its speed, its rounding, and what it does with wrong input.

In some families, flash attention differs from eager attention in transformers 5.23, steered or not, so they are not
compared with the oracle: in Gemma 3 and 4 the tokens of an image no longer see later ones, PaliGemma 2's windows also
cut its prefix, and GLM-4.5V and ERNIE 4.5 VL take the three rows of positions of a single prompt without padding for
three sequences.
"""

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from transformers.integrations.flash_attention import flash_attention_forward

from adaptvis_plugin.decoding import VAF, AdaptVis, Decoder, ScalingVis
from tests.cases import MODELS, NEW_TOKENS, Case, build, losses
from tests.families import FAMILIES
from tests.families.build import NOT_TEXT, random_batch, random_model
from tests.families.check import PerRow, same_tokens
from tests.flash_on_cpu import Call, flash_on_cpu

ALIKE = 1e-5  # two attention kernels
TOLERANCE = 1e-4  # the decoder and the oracle
WINDOWS = {"mistral3": 12, "aya_vision": 16, "softcap": 12}
HEADS = (4, 2)  # of queries, and of keys and values


@pytest.fixture
def calls() -> Iterator[list[Call]]:
    with flash_on_cpu() as made:
        yield made


each_case = pytest.mark.parametrize("texts", [[3, 9, 5], [7]], ids=["padded", "one row"])
each_model = pytest.mark.parametrize("name", MODELS)


def of_prompt(calls: list[Call], case: Case) -> list[Call]:
    """Return the calls in which the text decoder attended in the whole prompt. A vision tower's are not causal."""
    return [call for call in calls if call.causal and call.queries == call.keys == case.prompts]


@each_case
@each_model
def test_generate_gives_what_eager_attention_gives(name: str, texts: list[int], calls: list[Call]) -> None:
    case = build(name, texts)
    case.model.set_attn_implementation("eager")
    eager = case.generate()
    assert not calls
    case.model.set_attn_implementation("flash_attention_2")
    flash = case.generate()
    torch.testing.assert_close(torch.stack(flash.logits), torch.stack(eager.logits), atol=ALIKE, rtol=0)
    assert torch.equal(flash.sequences, eager.sequences)

    text = [call for call in calls if call.causal]
    prompt, later = text[: case.layers], text[case.layers :]
    assert prompt == of_prompt(calls, case)
    assert later and all(call.queries == [1] * len(texts) for call in later)
    head_dim = prompt[0].query[-1]
    tokens = (sum(case.prompts),) if len(texts) > 1 else (1, *case.prompts)
    function = "flash_attn_varlen_func" if len(texts) > 1 else "flash_attn_func"
    for call in prompt:
        assert call.function == function
        assert (call.query, call.key) == tuple((*tokens, heads, head_dim) for heads in HEADS)
    # transformers hands over no window where every key is within it.
    seen_back = {call.window[0] + 1 for call in prompt} - {0}
    assert seen_back == ({WINDOWS[name]} if name in WINDOWS and max(case.prompts) > WINDOWS[name] else set())
    assert {call.softcap for call in text} == {5.0 if name == "softcap" else 0.0}


@each_case
@each_model
def test_steering_equals_two_complete_passes(name: str, texts: list[int], calls: list[Call]) -> None:
    case = build(name, texts)
    expected = {alpha: case.expected(alpha) for alpha in (1.0, 0.5, 1.5)}
    effect = (expected[0.5].first_logits - expected[1.0].first_logits).abs().max()
    assert effect > 100 * TOLERANCE, "steering must be visible for the comparison to mean anything"
    confidence = expected[1.0].confidence
    threshold = round(float(confidence.median()), 2)
    alpha = torch.tensor([0.5 if round(float(c), 2) < threshold else 1.5 for c in confidence])
    rowwise = case.expected(alpha)
    assert not calls, "the oracle knows nothing of flash attention"

    case.model.set_attn_implementation("flash_attention_2")
    options: dict[str, Any] = {"max_new_tokens": NEW_TOKENS, **case.generation}
    decoder = Decoder(case.model)
    runs = [
        (decoder.generate(case.inputs, ScalingVis(0.5), **options), expected[0.5]),
        (decoder.generate(case.inputs, AdaptVis(0.5, 1.5, threshold), **options), rowwise),
    ]
    swept = decoder.sweep(case.inputs, [0.5, 1.5], **options)
    runs += [(swept[value], result) for value, result in expected.items()]
    for out, result in runs:
        torch.testing.assert_close(out.first_logits, result.first_logits, atol=TOLERANCE, rtol=0)
        torch.testing.assert_close(out.confidence, confidence, atol=TOLERANCE, rtol=0)
        assert torch.equal(out.sequences, result.sequences)
    assert len(of_prompt(calls, case)) == 3 * case.layers, "flash attention computed every prompt once"
    assert case.model.config.get_text_config()._attn_implementation == "flash_attention_2"


@pytest.mark.parametrize("name", ["llava", "softcap"])
def test_what_needs_a_mask_matrix_is_computed_by_another_kernel(name: str, calls: list[Call]) -> None:
    """Which has a softcap if the model has one."""
    case = build(name, [3, 7])
    method, options = VAF(), {"max_new_tokens": NEW_TOKENS, **case.generation}
    expected = Decoder(case.model).generate(case.inputs, method, **options)
    case.model.set_attn_implementation("flash_attention_2")
    out = Decoder(case.model).generate(case.inputs, method, **options)
    torch.testing.assert_close(out.first_logits, expected.first_logits, atol=TOLERANCE, rtol=0)
    assert torch.equal(out.sequences, expected.sequences) and calls, "flash attention computes the answer's tokens"


@each_case
@pytest.mark.parametrize("name", ["llava", "qwen2_vl"])
def test_the_unsteered_branch_of_a_sweep_is_decoded_by_the_kernel_to_the_end(
    name: str, texts: list[int], calls: list[Call]
) -> None:
    """So its text is that of `generate` in half precision too, where another kernel rounds in another way."""
    case = build(name, texts)
    case.model.set_attn_implementation("flash_attention_2")
    case.generate()
    alone = [call for call in calls if call.queries == [1] * len(texts)]
    calls.clear()
    Decoder(case.model).sweep(case.inputs, [0.5, 1.5], max_new_tokens=NEW_TOKENS, **case.generation)
    assert [call for call in calls if call.queries == [1] * len(texts)] == alone != []


@pytest.mark.parametrize("name", sorted(set(FAMILIES) - {"llama4"}))  # transformers has no flash attention for chunks
def test_in_every_family_one_pass_gives_what_two_give(name: str, calls: list[Call]) -> None:
    model: Any = random_model(FAMILIES[name])
    inputs = random_batch(FAMILIES[name], [3, 7, 5])
    decoder = Decoder(model)
    for config in decoder._text_decoder.configs:
        config._attn_implementation = "flash_attention_2"
    options: dict[str, Any] = {"max_new_tokens": NEW_TOKENS, "suppress_tokens": NOT_TEXT}
    alphas = (0.5, 2.0, 1.5)
    one, two = (decoder.generate(inputs, PerRow(alphas, known=known), **options) for known in (True, False))
    torch.testing.assert_close(one.first_logits, two.first_logits, atol=ALIKE, rtol=0)
    assert torch.equal(one.sequences, two.sequences)
    assert calls and decoder.stats.packed_passes == (FAMILIES[name].mode == "one pass")
    plain = model.generate(**inputs, do_sample=False, output_logits=True, return_dict_in_generate=True, **options)
    swept = decoder.sweep(inputs, alphas, **options)
    torch.testing.assert_close(swept[1.0].first_logits, plain.logits[0], atol=ALIKE, rtol=0)
    assert same_tokens(swept[1.0].sequences, plain.sequences[:, inputs["input_ids"].shape[1] :])
    for row, alpha in enumerate(alphas):
        torch.testing.assert_close(swept[alpha].first_logits[row], two.first_logits[row], atol=ALIKE, rtol=0)
        assert same_tokens(swept[alpha].sequences[row], two.sequences[row])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision_steering_loses_no_more_than_two_complete_passes(
    dtype: torch.dtype, calls: list[Call]
) -> None:
    """The types that the kernel takes."""
    ours, eager = losses(
        (build("llava", [5, 9, 3], seed) for seed in range(4)), dtype, alpha=0.5, attention="flash_attention_2"
    )
    assert ours <= 1.1 * eager
    assert {call.dtype for call in calls} == {dtype}


@pytest.mark.parametrize("texts", [[3, 9, 5], [7]], ids=["padded", "one row"])
def test_a_prompt_in_two_pieces_is_the_same_prompt(texts: list[int], calls: list[Call]) -> None:
    """The second piece has fewer queries than keys, and a query stands where the keys end."""
    case = build("llava", texts)
    case.model.set_attn_implementation("eager")
    whole = case.model(**case.inputs).logits[:, -1]
    case.model.set_attn_implementation("flash_attention_2")
    ids, mask = case.inputs["input_ids"], case.inputs["attention_mask"]
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    cut = ids.shape[1] - 2
    first = {**case.inputs, "input_ids": ids[:, :cut], "attention_mask": mask[:, :cut]}
    cache = case.model(**first, position_ids=positions[:, :cut], use_cache=True).past_key_values
    second = {"input_ids": ids[:, cut:], "attention_mask": mask, "past_key_values": cache}
    logits = case.model(**second, position_ids=positions[:, cut:]).logits[:, -1]
    torch.testing.assert_close(logits, whole, atol=ALIKE, rtol=0)
    assert calls[-1].queries == [2] * len(texts) and calls[-1].keys == case.prompts


@pytest.mark.parametrize("queries", [1, 6])
def test_a_mask_matrix_never_reaches_the_kernel_unnoticed(queries: int, calls: list[Call]) -> None:
    """So a run without an error had none."""
    model = build("llava", [3]).model
    model.set_attn_implementation("flash_attention_2")
    layer = model.get_decoder().layers[0].self_attn
    query, key = torch.randn(2, 4, queries, 8), torch.randn(2, 2, 6, 8)
    matrix = torch.ones(2, 1, queries, 6, dtype=torch.bool)
    with pytest.raises((ValueError, IndexError)):
        flash_attention_forward(layer, query, key, key, matrix)
    assert not calls


@pytest.mark.skipif(find_spec("flash_attn") is not None, reason="is about a machine without flash attention")
def test_afterwards_transformers_finds_no_flash_attention() -> None:
    model = build("llava", [3]).model
    with flash_on_cpu():
        model.set_attn_implementation("flash_attention_2")
    model.set_attn_implementation("sdpa")
    with pytest.raises(ImportError, match="FlashAttention2 has been toggled on"):
        model.set_attn_implementation("flash_attention_2")
