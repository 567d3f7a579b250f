"""One pass computes every coefficient: what it costs, and that the branches that follow equal separate runs."""

import string
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    GptOssConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from adaptvis_plugin.decoding import AdaptVis, Baseline, Decoder, Method, ScalingVis
from tests import oracle
from tests.families import FAMILIES
from tests.families.build import IMAGE as FAMILY_IMAGE
from tests.families.build import NOT_TEXT
from tests.families.build import random_batch as family_batch
from tests.families.build import random_model as family_model
from tests.families.check import PerRow, same_tokens
from tests.random_models import IMAGE, random_batch, random_model

TOLERANCE = 1e-4
ALPHAS = [0.5, 0.8, 1.2, 1.5, 2.0]


class Passes:
    """What the text decoder is given in each of its passes: rows, tokens, and the columns its cache then has."""

    def __init__(self, model: Any) -> None:
        self.seen: list[tuple[int, int]] = []
        self.cached: list[list[tuple[int, ...]]] = []
        model.get_decoder().register_forward_hook(self._see, with_kwargs=True)

    def _see(self, module: Any, arguments: Any, options: dict[str, Any], output: Any) -> None:
        self.seen.append(tuple(options["inputs_embeds"].shape[:2]))
        self.cached.append([tuple(layer.keys.shape) for layer in options["past_key_values"].layers])


@pytest.mark.parametrize(
    ("method", "copies"), [(ScalingVis(alpha=0.5), 1), (AdaptVis(0.5, 1.5, 0.4), 2), (AdaptVis(0.5, 1.0, 0.4), 1)]
)
def test_a_method_takes_as_many_passes_as_plain_decoding(method: Method, copies: int) -> None:
    model = random_model("llava", seed=3)
    inputs = random_batch(model, [9, 5], seed=3)
    rows, tokens = inputs["input_ids"].shape
    passes = Passes(model)
    out = Decoder(model).generate(inputs, method, max_new_tokens=4)
    assert passes.seen == [(rows, tokens + copies)] + [(rows, 1)] * (out.sequences.shape[1] - 1)
    # The copies leave the cache, which then has a column for each token, as in plain decoding.
    assert [{columns for _, _, columns, _ in layers} for layers in passes.cached[1:]] == [
        {tokens + 1},
        {tokens + 2},
        {tokens + 3},
    ]


def test_a_sweep_takes_as_many_passes_as_its_longest_answer_and_keeps_each_prompt_once() -> None:
    model = random_model("llava", seed=3)
    inputs = random_batch(model, [9, 5], seed=3)
    rows, tokens = inputs["input_ids"].shape
    passes, branches = Passes(model), 1 + len(ALPHAS)
    Decoder(model).sweep(inputs, ALPHAS, max_new_tokens=4)
    assert passes.seen == [(rows, tokens + len(ALPHAS))] + [(rows * branches, 1)] * 3
    for step, layers in enumerate(passes.cached[1:], 2):
        assert {shape[0] for shape in layers} == {rows}, "one row for each prompt, not for each branch"
        assert {shape[2] for shape in layers} == {tokens - 1 + branches * step}


def test_after_the_first_pass_a_sliding_window_keeps_only_the_window() -> None:
    family = FAMILIES["mistral3"]
    model = family_model(family)
    inputs = family_batch(family, [9, 7], [1, 1])
    window = model.config.text_config.sliding_window
    assert inputs["input_ids"].shape[1] > window
    passes = Passes(model)
    Decoder(model).generate(inputs, ScalingVis(alpha=0.5), max_new_tokens=4, suppress_tokens=NOT_TEXT)
    assert [{shape[2] for shape in layers} for layers in passes.cached[1:]] == [{window - 1}] * 3


KINDS = ["llava", "gemma3", "qwen2_vl", "mistral3", "llama4", "gemma4"]  # full, windows, M-RoPE, chunks, shared keys


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(
    "options",
    [
        {"max_new_tokens": 1},
        {"max_new_tokens": 9, "repetition_penalty": 4.0},
        {"max_new_tokens": 9, "min_new_tokens": 5, "no_repeat_ngram_size": 2},
    ],
    ids=lambda options: list(options)[-1],
)
def test_branches_equal_separate_runs_whatever_processes_their_logits(name: str, options: dict[str, Any]) -> None:
    branches_equal_separate_runs(name, options)


@pytest.mark.parametrize("name", KINDS)
def test_branches_equal_separate_runs_wherever_each_of_them_ends(name: str) -> None:
    free = branches_equal_separate_runs(name, {"max_new_tokens": 9, "repetition_penalty": 4.0})
    ends = free[:, :, 3].flatten().unique().tolist()[::2]  # half of the fourth tokens
    ended = branches_equal_separate_runs(
        name, {"max_new_tokens": 9, "repetition_penalty": 4.0, "eos_token_id": ends, "pad_token_id": 0}
    )
    lengths = (ended != 0).sum(-1).flatten().unique()
    assert len(lengths) > 1, "the answers must have different lengths"


def branches_equal_separate_runs(name: str, options: dict[str, Any]) -> torch.Tensor:
    """Compare a sweep with separate runs, and return its tokens, shape (branches, rows, tokens)."""
    family = FAMILIES[name]
    model = family_model(family)
    inputs = family_batch(family, [3, 7, 5])
    options = {"suppress_tokens": [0, *NOT_TEXT], **options}
    swept = Decoder(model).sweep(inputs, ALPHAS, **options)
    for alpha, branch in swept.items():
        alone = Decoder(model).generate(inputs, ScalingVis(alpha=alpha), **options)
        torch.testing.assert_close(branch.first_logits, alone.first_logits, atol=TOLERANCE, rtol=0)
        assert torch.equal(branch.alpha, alone.alpha)
        assert same_tokens(branch.sequences, alone.sequences)
    return torch.stack([branch.sequences for branch in swept.values()])


LETTERS = [*string.ascii_letters, *string.digits, "+", "-"]


def letters() -> PreTrainedTokenizerFast:
    """Return a tokenizer in which every token is a letter."""
    tokenizer = Tokenizer(WordLevel({letter: token for token, letter in enumerate(LETTERS)}, unk_token=LETTERS[0]))
    tokenizer.pre_tokenizer = Split("", "isolated")
    tokenizer.decoder = Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def test_a_stop_string_ends_the_branch_in_which_it_stands() -> None:
    model = random_model("llava", kv_heads=2, seed=3)
    inputs = random_batch(model, [4, 9, 1], seed=3)
    free = Decoder(model).sweep(inputs, ALPHAS, max_new_tokens=6)
    second = {int(branch.sequences[0, 1]) for branch in free.values()}
    assert len(second) > 1
    stop = LETTERS[int(free[0.5].sequences[0, 1])]
    options: dict[str, Any] = {"max_new_tokens": 6, "stop_strings": [stop], "tokenizer": letters()}
    stopped = Decoder(model).sweep(inputs, ALPHAS, **options)
    for alpha, branch in stopped.items():
        alone = Decoder(model).generate(inputs, ScalingVis(alpha=alpha), **options)
        assert same_tokens(branch.sequences, alone.sequences)
    assert not same_tokens(stopped[0.5].sequences, free[0.5].sequences)


def test_in_a_sweep_a_rule_for_the_next_token_is_asked_about_the_callers_rows() -> None:
    model = random_model("llava", seed=3)
    allowed = {0: [11, 12], 1: [21, 22, 23]}
    swept = Decoder(model).sweep(
        random_batch(model, [4, 9], seed=3), ALPHAS, prefix_allowed_tokens_fn=lambda row, ids: allowed[row]
    )
    for branch in swept.values():
        for row, tokens in enumerate(branch.sequences.tolist()):
            assert set(tokens) <= set(allowed[row])


def test_rows_without_an_image_are_the_plain_models_in_every_branch() -> None:
    model = random_model("llava", seed=13)
    inputs = random_batch(model, [4, 4, 6], images=[1, 0, 2], seed=13)
    plain = Decoder(model).generate(inputs, Baseline(), max_new_tokens=5)
    for alpha, branch in Decoder(model).sweep(inputs, ALPHAS, max_new_tokens=5).items():
        assert branch.alpha.tolist() == pytest.approx([alpha, 1.0, alpha])
        torch.testing.assert_close(branch.first_logits[1], plain.first_logits[1], atol=1e-6, rtol=0)
        assert torch.equal(branch.sequences[1], plain.sequences[1])


def test_a_method_that_does_not_know_its_coefficients_beforehand_takes_two_passes() -> None:
    model = random_model("llava", seed=7)
    inputs = random_batch(model, [3, 8], seed=7)
    decoder = Decoder(model)
    two = decoder.generate(inputs, PerRow((0.5, 2.0), known=False), max_new_tokens=5)
    assert (decoder.stats.packed_passes, decoder.stats.full_passes) == (0, 1)
    one = decoder.generate(inputs, PerRow((0.5, 2.0)), max_new_tokens=5)
    assert (decoder.stats.packed_passes, decoder.stats.full_passes) == (1, 1)
    torch.testing.assert_close(one.first_logits, two.first_logits, atol=TOLERANCE, rtol=0)
    assert torch.equal(one.sequences, two.sequences)


@dataclass(frozen=True)
class Forgetful(ScalingVis):
    """Choose a coefficient that is not among those that the method names."""

    @property
    def alphas(self) -> tuple[float, ...]:
        return (2.0, 1.5)


def test_a_coefficient_that_a_method_does_not_name_is_an_error() -> None:
    model = random_model("llava", seed=7)
    with pytest.raises(ValueError, match=r"chose the coefficients \[0.5\], but beside 1 it names only \[2.0, 1.5\]"):
        Decoder(model).generate(random_batch(model, [3]), Forgetful(alpha=0.5))


@pytest.mark.parametrize("step", [7, 1000])
def test_where_the_scale_of_the_queries_changes_among_the_copies_two_passes_are_made(step: int) -> None:
    """Llama 4 scales queries by their index in the batch, which of a copy is not that of its token."""
    family = FAMILIES["llama4"]
    model = family_model(family)
    text = model.config.text_config
    text.attn_temperature_tuning, text.floor_scale, text.attn_scale = True, step, 0.5
    module: Any
    for module in model.modules():
        if hasattr(module, "attn_temperature_tuning"):
            module.attn_temperature_tuning, module.floor_scale, module.attn_scale = True, step, 0.5
    widths = range(6, 6 + 7)  # every distance from the next multiple of 7
    modes = set()
    for width in widths:
        inputs = family_batch(family, [width, 3], [1, 1])
        decoder = Decoder(model)
        out = decoder.generate(inputs, AdaptVis(0.5, 1.5, 0.4), max_new_tokens=2, suppress_tokens=NOT_TEXT)
        expected = oracle.scaling_vis(
            model, inputs, FAMILY_IMAGE, out.alpha, 2, own_positions=family.own_positions, forbidden=NOT_TEXT
        )
        torch.testing.assert_close(out.first_logits, expected.first_logits, atol=TOLERANCE, rtol=0)
        modes.add("two passes" if decoder.stats.full_passes else "one pass")
    assert modes == ({"one pass", "two passes"} if step == 7 else {"one pass"})


def gpt_oss_model() -> Any:
    """Return a LLaVA on GPT-OSS: attention sinks, a sliding window in every second layer, a mixture of experts."""
    plain = random_model("llava", kv_heads=2, seed=3)
    shared = ("hidden_size", "num_attention_heads", "num_key_value_heads", "vocab_size", "pad_token_id", "eos_token_id")
    text = GptOssConfig(
        **{name: getattr(plain.config.text_config, name) for name in shared},
        head_dim=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_local_experts=4,
        num_experts_per_tok=2,
        sliding_window=12,
        layer_types=["sliding_attention", "full_attention"],
    )
    vision = plain.config.vision_config
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE, vision_feature_layer=-2)
    torch.manual_seed(0)
    model: Any = LlavaForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, weight in model.get_decoder().named_parameters():
            if "norm" not in name:
                weight.normal_(0, 2.0 if name.endswith("sinks") else 0.15)
        model.lm_head.weight.mul_(10)
        model.lm_head.weight[IMAGE] = 0
    model.generation_config = plain.generation_config
    return model


def test_attention_sinks_take_part_in_every_way_of_decoding() -> None:
    model = gpt_oss_model()
    inputs = random_batch(model, [4, 9, 1], seed=3)
    expected = oracle.scaling_vis(model, inputs, IMAGE, torch.full((3,), 0.5), 5)
    unsteered, text = oracle.complete_pass(model, inputs, IMAGE, torch.ones(3), 5)
    assert (expected.first_logits - unsteered).abs().max() > 100 * TOLERANCE
    one, two = (
        Decoder(model).generate(inputs, PerRow((0.5,) * 3, known=known), max_new_tokens=5) for known in (True, False)
    )
    swept = Decoder(model).sweep(inputs, [2.0, 0.5], max_new_tokens=5)
    for out in (one, two, swept[0.5]):
        torch.testing.assert_close(out.first_logits, expected.first_logits, atol=TOLERANCE, rtol=0)
        assert same_tokens(out.sequences, expected.sequences)
    torch.testing.assert_close(swept[1.0].first_logits, unsteered, atol=TOLERANCE, rtol=0)
    assert same_tokens(swept[1.0].sequences, text)
    for layer in model.get_decoder().layers:
        layer.self_attn.sinks.data.fill_(-1e9)
    without = oracle.complete_pass(model, inputs, IMAGE, torch.full((3,), 0.5), 1)[0]
    assert (expected.first_logits - without).abs().max() > 100 * TOLERANCE, "the sinks must matter"


def test_a_kernel_of_the_users_own_takes_two_passes() -> None:
    """Nothing is known about its masks, so they cannot be cut."""
    AttentionInterface.register("of_my_own", sdpa_attention_forward)
    AttentionMaskInterface.register("of_my_own", sdpa_mask)
    model = random_model("llava", seed=7)
    inputs = random_batch(model, [3, 8], seed=7)
    expected = oracle.scaling_vis(model, inputs, IMAGE, torch.full((2,), 0.5), 5)
    model.set_attn_implementation({"text_config": "of_my_own"})
    decoder = Decoder(model)
    out = decoder.generate(inputs, ScalingVis(alpha=0.5), max_new_tokens=5)
    assert (decoder.stats.packed_passes, decoder.stats.full_passes) == (0, 1)
    torch.testing.assert_close(out.first_logits, expected.first_logits, atol=TOLERANCE, rtol=0)
    assert torch.equal(out.sequences, expected.sequences)


def test_a_model_in_which_earlier_tokens_see_the_last_one_is_tried_once() -> None:
    family = FAMILIES["paligemma"]
    model = family_model(family)
    passes = Passes(model)
    decoder = Decoder(model)
    for _ in range(2):
        decoder.generate(family_batch(family, [3, 5], [1, 1]), ScalingVis(alpha=0.5), max_new_tokens=1)
    widths = [tokens for _, tokens in passes.seen]
    assert widths == [widths[1] + 1] + [widths[1]] * 4
