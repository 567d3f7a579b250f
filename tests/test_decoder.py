"""The one-prefill decoder compared with the oracle's two complete eager passes."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptvis_plugin.decoding import AdaptVis, Baseline, Decoder, ScalingVis
from adaptvis_plugin.decoding.first_token import Recorded
from tests import oracle
from tests.random_models import EOS, IMAGE, PAD, random_batch, random_model

FAMILIES = ["llava", "llava_next"]
TOLERANCE = 1e-4


def test_steering_is_visible_in_the_test_models() -> None:
    """On a model that steering does not change, the comparisons below would mean nothing."""
    model = random_model("llava")
    inputs = random_batch(model, [6, 6])
    ones = torch.ones(2)
    plain = oracle.scaling_vis(model, inputs, IMAGE, ones, 1).first_logits
    steered = oracle.scaling_vis(model, inputs, IMAGE, ones * 0.5, 1).first_logits
    assert (plain - steered).abs().max() > 100 * TOLERANCE


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    family=st.sampled_from(FAMILIES),
    kv_heads=st.sampled_from([1, 2, 4]),
    texts=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    alpha=st.sampled_from([0.0, 0.5, 0.8, 1.0, 1.2, 1.5, 2.0]),
    seed=st.integers(0, 1000),
)
def test_scaling_vis_equals_two_complete_passes(
    family: str, kv_heads: int, texts: list[int], alpha: float, seed: int
) -> None:
    model = random_model(family, kv_heads=kv_heads, seed=seed)
    inputs = random_batch(model, texts, seed=seed)
    expected = oracle.scaling_vis(model, inputs, IMAGE, torch.full((len(texts),), alpha), 6)
    with Decoder(model) as decoder:
        out = decoder.generate(inputs, ScalingVis(alpha=alpha), max_new_tokens=6)
    torch.testing.assert_close(out.first_logits, expected.first_logits, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(out.confidence, expected.confidence, atol=TOLERANCE, rtol=0)
    assert torch.equal(out.sequences, expected.sequences)
    assert out.alpha.tolist() == pytest.approx([alpha] * len(texts))


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    family=st.sampled_from(FAMILIES),
    texts=st.lists(st.integers(1, 12), min_size=2, max_size=5),
    low=st.sampled_from([0.0, 0.5, 1.0]),
    high=st.sampled_from([1.0, 1.5, 2.0]),
    seed=st.integers(0, 1000),
)
def test_adaptvis_steers_each_row_by_its_own_confidence(
    family: str, texts: list[int], low: float, high: float, seed: int
) -> None:
    model = random_model(family, kv_heads=2, seed=seed)
    inputs = random_batch(model, texts, seed=seed)
    plain = oracle.scaling_vis(model, inputs, IMAGE, torch.ones(len(texts)), 1)
    threshold = round(float(plain.confidence.median()), 2)
    alpha = torch.tensor([low if round(float(c), 2) < threshold else high for c in plain.confidence])
    expected = oracle.scaling_vis(model, inputs, IMAGE, alpha, 5)

    out = Decoder(model).generate(inputs, AdaptVis(low, high, threshold), max_new_tokens=5)

    assert torch.equal(out.alpha, alpha)
    torch.testing.assert_close(out.first_logits, expected.first_logits, atol=TOLERANCE, rtol=0)
    assert torch.equal(out.sequences, expected.sequences)


class OnMps(torch.Tensor):
    """A tensor that claims to be on Apple's MPS and, as there, cannot become double."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func == torch.Tensor.device.__get__:
            return torch.device("mps")
        if func is torch.Tensor.double:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64")
        if func is torch.Tensor.cpu:
            return args[0].as_subclass(torch.Tensor)
        return super().__torch_function__(func, types, args, kwargs or {})  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("kind", [torch.Tensor, OnMps])
def test_a_confidence_that_rounds_to_the_threshold_is_not_below_it(kind: type[torch.Tensor]) -> None:
    """Every two-decimal threshold, and confidences just above and below the number that rounds to it."""
    for hundredths in range(1, 101):
        confidence = torch.tensor([hundredths - 0.51, hundredths - 0.49, hundredths]) / 100
        alpha = AdaptVis(0.5, 1.5, threshold=hundredths / 100).choose(Recorded(confidence=confidence.as_subclass(kind)))
        assert alpha.as_subclass(torch.Tensor).tolist() == [0.5, 1.5, 1.5]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_sweep_equals_separate_runs(family: str) -> None:
    model = random_model(family, kv_heads=2, seed=3)
    inputs = random_batch(model, [4, 9, 1], seed=3)
    alphas = [0.5, 0.8, 1.2, 1.5, 2.0]
    decoder = Decoder(model)
    sweep = decoder.sweep(inputs, alphas, max_new_tokens=6)
    assert list(sweep) == [1.0, *alphas]
    for alpha, swept in sweep.items():
        single = decoder.generate(inputs, ScalingVis(alpha=alpha), max_new_tokens=6)
        torch.testing.assert_close(swept.first_logits, single.first_logits, atol=TOLERANCE, rtol=0)
        assert torch.equal(swept.sequences, single.sequences)
        assert torch.equal(swept.alpha, single.alpha)
        torch.testing.assert_close(swept.confidence, single.confidence, atol=1e-6, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", [Baseline(), ScalingVis(alpha=1.0), AdaptVis(1.0, 1.0, 0.5)])
def test_alpha_one_equals_plain_generate(family: str, method: Baseline | ScalingVis | AdaptVis) -> None:
    model = random_model(family, seed=5)
    inputs = random_batch(model, [3, 7], seed=5)
    plain = model.generate(
        **inputs, max_new_tokens=8, do_sample=False, output_logits=True, return_dict_in_generate=True
    )
    out = Decoder(model).generate(inputs, method, max_new_tokens=8)
    assert torch.equal(out.sequences, plain.sequences[:, inputs["input_ids"].shape[1] :])
    torch.testing.assert_close(out.first_logits, plain.logits[0], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_results_do_not_depend_on_batch_or_order(family: str) -> None:
    model = random_model(family, kv_heads=2, seed=7)
    texts = [2, 11, 5, 8]
    method = AdaptVis(0.5, 1.5, 0.4)
    decoder = Decoder(model)
    together = decoder.generate(random_batch(model, texts, seed=7), method, max_new_tokens=6)

    batch = random_batch(model, texts, seed=7)
    order = [2, 0, 3, 1]
    shuffled = decoder.generate({k: v[order] for k, v in batch.items()}, method, max_new_tokens=6)
    for place, row in enumerate(order):
        torch.testing.assert_close(shuffled.first_logits[place], together.first_logits[row], atol=TOLERANCE, rtol=0)
        assert torch.equal(shuffled.sequences[place], together.sequences[row])
    for row in range(len(texts)):
        real = batch["attention_mask"][row].bool()
        alone = {k: v[row : row + 1] for k, v in batch.items()}
        alone["input_ids"], alone["attention_mask"] = (alone[k][:, real] for k in ("input_ids", "attention_mask"))
        out = decoder.generate(alone, method, max_new_tokens=6)
        torch.testing.assert_close(out.first_logits[0], together.first_logits[row], atol=TOLERANCE, rtol=0)
        kept = together.sequences[row]
        assert [t for t in kept.tolist() if t != PAD] == [t for t in out.sequences[0].tolist() if t != PAD]


def test_several_images_in_a_row_are_all_steered() -> None:
    model = random_model("llava", seed=11)
    inputs = random_batch(model, [5, 5], images=[2, 1], seed=11)
    alpha = torch.full((2,), 0.5)
    expected = oracle.scaling_vis(model, inputs, IMAGE, alpha, 4)
    out = Decoder(model).generate(inputs, ScalingVis(alpha=0.5), max_new_tokens=4)
    torch.testing.assert_close(out.first_logits, expected.first_logits, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("images", [[1, 0, 1], [0, 0, 0]])
def test_a_row_without_an_image_is_decoded_unsteered_and_says_so_once(
    images: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    model = random_model("llava", seed=13)
    inputs = random_batch(model, [4, 4, 4], images=images, seed=13)
    expected = oracle.scaling_vis(model, inputs, IMAGE, torch.tensor([0.5 if k else 1.0 for k in images]), 4)
    bare = [row for row, k in enumerate(images) if not k]
    decoder = Decoder(model)
    for _ in range(2):
        out = decoder.generate(inputs, ScalingVis(alpha=0.5), max_new_tokens=4)
    assert [record.getMessage() for record in caplog.records].count(
        f"rows {bare} hold no image token and are decoded unsteered (alpha 1), as all such rows are"
    ) == 1
    assert out.alpha.tolist() == [0.5 if k else 1.0 for k in images]
    torch.testing.assert_close(out.first_logits, expected.first_logits, atol=TOLERANCE, rtol=0)
    assert torch.equal(out.sequences, expected.sequences)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_any_prefill_kernel_gives_the_same(implementation: str) -> None:
    model = random_model("llava", seed=19)
    model.set_attn_implementation(implementation)
    inputs = random_batch(model, [5, 9], seed=19)
    expected = oracle.scaling_vis(model, inputs, IMAGE, torch.full((2,), 1.5), 5)
    model.set_attn_implementation(implementation)
    out = Decoder(model).generate(inputs, ScalingVis(alpha=1.5), max_new_tokens=5)
    torch.testing.assert_close(out.first_logits, expected.first_logits, atol=TOLERANCE, rtol=0)
    assert model.config.text_config._attn_implementation == implementation


def test_the_model_is_left_as_it_was() -> None:
    model = random_model("llava", seed=23)
    inputs = random_batch(model, [5, 9], seed=23)
    before = model.generate(**inputs, max_new_tokens=6, do_sample=False)
    config, generation = model.config.to_dict(), model.generation_config.to_dict()
    with Decoder(model) as decoder:
        decoder.generate(inputs, ScalingVis(alpha=2.0), max_new_tokens=6)
        decoder.sweep(inputs, [0.5], max_new_tokens=6)
        assert not model._forward_hooks and not model._forward_pre_hooks
    assert model.config.to_dict() == config and model.generation_config.to_dict() == generation
    assert model.config.text_config._attn_implementation == "sdpa"
    assert torch.equal(model.generate(**inputs, max_new_tokens=6, do_sample=False), before)


def test_leaving_a_decoder_frees_its_prefixes_and_nothing_else() -> None:
    model = random_model("llava", seed=23)
    inputs = random_batch(model, [5, 9], seed=23)
    with Decoder(model, prefix_bytes=2**30) as decoder:
        for _ in range(2):
            inside = decoder.generate(inputs, ScalingVis(alpha=2.0))
    assert decoder.stats.prefixes_reused == 2
    after = decoder.generate(inputs, ScalingVis(alpha=2.0))
    assert decoder.stats.prefixes_reused == 2, "the prefixes are gone"
    torch.testing.assert_close(after.first_logits, inside.first_logits, atol=TOLERANCE, rtol=0)
    decoder.generate(inputs, ScalingVis(alpha=2.0))
    assert decoder.stats.prefixes_reused == 4, "and the decoder keeps new ones"


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), KeyboardInterrupt("by the user")], ids=repr)
def test_the_model_is_left_as_it_was_when_the_steered_pass_fails(error: BaseException) -> None:
    model = random_model("llava", seed=23)
    inputs = random_batch(model, [5], seed=23)
    calls: list[None] = []

    def fail_on_second_pass(*_: object) -> None:
        calls.append(None)
        if len(calls) == 2:
            raise error

    hook = model.get_decoder().register_forward_hook(fail_on_second_pass)
    with pytest.raises(type(error), match=str(error)):
        Decoder(model).generate(inputs, ScalingVis(alpha=2.0))
    hook.remove()
    assert model.config.text_config._attn_implementation == "sdpa"
    assert not model._forward_hooks and not model._forward_pre_hooks


def test_two_decoders_on_two_models_do_not_disturb_each_other() -> None:
    first, second = random_model("llava", seed=29), random_model("llava_next", seed=31)
    inputs = [random_batch(model, [5, 7], seed=29) for model in (first, second)]
    alone = [
        Decoder(model, prefix_bytes=0).generate(batch, ScalingVis(alpha=a), max_new_tokens=5)
        for model, batch, a in ((first, inputs[0], 0.5), (second, inputs[1], 2.0))
    ]
    with Decoder(first, prefix_bytes=0) as one, Decoder(second, prefix_bytes=0) as two:
        for _ in range(2):
            a = one.generate(inputs[0], ScalingVis(alpha=0.5), max_new_tokens=5)
            b = two.generate(inputs[1], ScalingVis(alpha=2.0), max_new_tokens=5)
    for again, before in zip((a, b), alone, strict=True):
        assert torch.equal(again.first_logits, before.first_logits)
        assert torch.equal(again.sequences, before.sequences)


def test_generate_options_reach_generate() -> None:
    model = random_model("llava", seed=37)
    inputs = random_batch(model, [5], seed=37)
    out = Decoder(model).generate(inputs, ScalingVis(alpha=0.5), max_new_tokens=8)
    first = int(out.sequences[0, 0])
    banned = Decoder(model).generate(inputs, ScalingVis(alpha=0.5), max_new_tokens=8, suppress_tokens=[first])
    assert first not in banned.sequences[0].tolist()
    assert first != EOS
