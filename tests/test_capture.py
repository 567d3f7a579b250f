"""The captured attention equals that of complete eager passes; and where layers, heads or a constant are given."""

from typing import Any

import pytest
import torch

from adaptvis_plugin.decoding import AdaptVis, AddedConstant, Baseline, Decoder, Method, ScalingVis
from tests import oracle
from tests.families import FAMILIES
from tests.families.build import IMAGE, NOT_TEXT, Family, random_batch, random_model
from tests.families.check import ALPHAS, IMAGE_LAST, TEXTS, PerRow, same_tokens
from tests.random_models import random_batch as llava_batch
from tests.random_models import random_model as llava_model

NEW_TOKENS = 1  # later ones are not steered; see test_families
TOLERANCE = 1e-4  # of logits
HALF = 2**-10  # of weights that were rounded to fp16
ALIKE = 1e-5  # of two passes in fp32
CONSTANT = 1.5


def settings(family: Family) -> dict[str, Any]:
    return {"own_positions": family.own_positions, "answer_type": family.prefix_types[2], "forbidden": NOT_TEXT}


def eager_attention(model: Any, inputs: dict[str, Any]) -> torch.Tensor:
    """Return what transformers gives under output_attentions=True; (batch, layers, heads, prompt tokens)."""
    own = model.config.get_text_config(decoder=True)._attn_implementation
    model.set_attn_implementation({"text_config": "eager"})
    try:
        options = {"max_new_tokens": 1, "do_sample": False, "output_attentions": True, "return_dict_in_generate": True}
        found = model.generate(**inputs, **options).attentions[0]
    finally:
        model.set_attn_implementation({"text_config": own})
    # A layer without attention (linear attention, a convolution) has None.
    return torch.stack([layer[:, :, -1] for layer in found if layer is not None], 1)


def close(found: torch.Tensor | None, expected: torch.Tensor, mask: torch.Tensor) -> None:
    """Compare weights; what eager attention gives in padding has no meaning."""
    assert found is not None and found.dtype == torch.float16
    seen = mask[:, None, None].bool()
    torch.testing.assert_close(found.float(), expected.float() * seen, rtol=HALF, atol=ALIKE)


@pytest.mark.parametrize("texts", [TEXTS, IMAGE_LAST], ids=["text last", "image last"])
@pytest.mark.parametrize("name", FAMILIES)
def test_in_every_family_it_is_what_eager_attention_gives(name: str, texts: list[int]) -> None:
    family = FAMILIES[name]
    model: Any = random_model(family)
    inputs = random_batch(family, texts)
    mask = inputs["attention_mask"]
    plain = eager_attention(model, inputs)
    expected = oracle.scaling_vis(model, inputs, IMAGE, torch.tensor(ALPHAS), NEW_TOKENS, **settings(family))

    decoder = Decoder(model)
    options: dict[str, Any] = {"max_new_tokens": NEW_TOKENS, "suppress_tokens": NOT_TEXT}
    unsteered = decoder.generate(inputs, Baseline(), capture=True, **options)
    steered = decoder.generate(inputs, PerRow(ALPHAS), capture=True, **options)
    swept = decoder.sweep(inputs, ALPHAS, capture=True, **options)
    close(unsteered.attention, plain, mask)
    close(steered.attention, expected.weights, mask)
    close(swept[1.0].attention, plain, mask)
    for row, alpha in enumerate(ALPHAS):
        weights = swept[alpha].attention
        assert weights is not None
        close(weights[row, None], expected.weights[row, None], mask[row, None])
    assert plain.shape[1:3] == (len(decoder.layers), decoder.heads)
    assert float((expected.weights - plain).abs().max()) > 0.01, "steering must be visible"

    # To look does not change the answers.
    for method, seen in ((Baseline(), unsteered), (PerRow(ALPHAS), steered)):
        alone = decoder.generate(inputs, method, **options)
        assert alone.attention is None
        assert torch.equal(alone.sequences, seen.sequences)
        torch.testing.assert_close(alone.first_logits, seen.first_logits, atol=ALIKE, rtol=0)


@pytest.mark.parametrize("name", FAMILIES)
def test_in_every_family_layers_heads_and_a_constant_equal_complete_eager_passes(name: str) -> None:
    family = FAMILIES[name]
    model: Any = random_model(family)
    inputs = random_batch(family, TEXTS)
    decoder = Decoder(model)
    layer, heads = decoder.layers[len(decoder.layers) // 2], range(decoder.heads)
    cases: list[tuple[Method, float, dict[str, Any]]] = [
        (ScalingVis(0.5, layers=layer), 0.5, {"steered": [(layer, head) for head in heads]}),
        (ScalingVis(2.0, heads=[f"L{layer}H0", f"L{layer}H2"]), 2.0, {"steered": [(layer, 0), (layer, 2)]}),
        (AddedConstant(CONSTANT), 1.0, {"added": CONSTANT}),
    ]
    everywhere = oracle.scaling_vis(model, inputs, IMAGE, torch.ones(3), 1, **settings(family)).first_logits
    for method, alpha, where in cases:
        alphas = torch.full((3,), alpha)
        expected = oracle.scaling_vis(model, inputs, IMAGE, alphas, NEW_TOKENS, **where, **settings(family))
        found = decoder.generate(inputs, method, max_new_tokens=NEW_TOKENS, suppress_tokens=NOT_TEXT, capture=True)
        torch.testing.assert_close(found.first_logits, expected.first_logits, atol=TOLERANCE, rtol=0)
        torch.testing.assert_close(found.confidence, expected.confidence, atol=TOLERANCE, rtol=0)
        assert torch.equal(found.sequences, expected.sequences)
        close(found.attention, expected.weights, inputs["attention_mask"])
        assert float((expected.first_logits - everywhere).abs().max()) > 10 * TOLERANCE, "it must be visible"


def test_all_layers_and_all_heads_by_name_are_the_default_bit_for_bit() -> None:
    model, texts = llava_model("llava"), [5, 9, 3]
    inputs = llava_batch(model, texts)
    decoder = Decoder(model, prefix_bytes=0)
    plain = decoder.generate(inputs, ScalingVis(0.5))
    heads = "+".join(f"L{layer}H{head}" for layer in range(3) for head in range(4))
    for where in ({"layers": "0-2"}, {"layers": [2, 0, 1]}, {"heads": heads}):
        again = decoder.generate(inputs, ScalingVis(0.5, **where))
        assert torch.equal(again.first_logits, plain.first_logits) and torch.equal(again.sequences, plain.sequences)
        swept = decoder.sweep(inputs, [0.5], **where)[0.5]
        assert torch.equal(swept.first_logits, plain.first_logits)


def test_adaptvis_chooses_per_row_and_steers_only_its_layers() -> None:
    model = llava_model("llava", kv_heads=2)
    inputs = llava_batch(model, [5, 9, 3])
    decoder = Decoder(model, prefix_bytes=0)
    confidence = decoder.generate(inputs, Baseline()).confidence
    threshold = round(float(confidence.min() + confidence.max()) / 2, 2)
    found = decoder.generate(inputs, AdaptVis(0.5, 1.5, threshold, layers="1-2"), capture=True)
    assert {*found.alpha.tolist()} == {0.5, 1.5}
    swept = decoder.sweep(inputs, [0.5, 1.5], layers=[1, 2], capture=True)
    for row, alpha in enumerate(found.alpha.tolist()):
        torch.testing.assert_close(found.first_logits[row], swept[alpha].first_logits[row], atol=ALIKE, rtol=0)
        own, other = found.attention, swept[alpha].attention
        assert own is not None and other is not None
        close(own[row, None], other[row, None], inputs["attention_mask"][row, None])
    unsteered = decoder.generate(inputs, Baseline(), capture=True).attention
    assert unsteered is not None and found.attention is not None
    change = (found.attention - unsteered).float().abs().amax((0, 2, 3))
    assert change[0] < HALF and change[1] > 0.01, "layer 0 is not steered"


def test_a_row_has_the_same_attention_whatever_stands_beside_it_and_whether_its_prefix_was_shared() -> None:
    """The pass that continues a cached prefix has its padding at other places."""
    model = llava_model("llava")
    inputs = llava_batch(model, [5, 9, 3, 7])
    inputs["pixel_values"][2:] = inputs["pixel_values"][:2]
    alone = Decoder(model, prefix_bytes=0)
    shared = Decoder(model, prefix_bytes=2**30)
    for method in (Baseline(), ScalingVis(0.5)):
        shared.generate(inputs, method)  # fills the cache
        found = shared.generate(inputs, method, capture=True)
        expected = alone.generate(inputs, method, capture=True)
        assert expected.attention is not None
        close(found.attention, expected.attention, inputs["attention_mask"])
        for row in range(4):
            one = {name: value[row, None] for name, value in inputs.items()}
            width = int(one["attention_mask"].sum())
            one |= {name: one[name][:, -width:] for name in ("input_ids", "attention_mask")}
            single = alone.generate(one, method, capture=True).attention
            close(single, expected.attention[row, None, ..., -width:], one["attention_mask"])
    assert shared.stats.prefixes_reused > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision_it_is_near_that_of_fp32(dtype: torch.dtype) -> None:
    model = llava_model("llava", kv_heads=2)
    inputs = llava_batch(model, [5, 9, 3])
    exact = Decoder(model).sweep(inputs, [0.5], capture=True)
    inputs["pixel_values"] = inputs["pixel_values"].to(dtype)
    found = Decoder(model.to(dtype)).sweep(inputs, [0.5], capture=True)
    for alpha in (1.0, 0.5):
        weights = found[alpha].attention
        assert weights is not None and bool(weights.isfinite().all())
        torch.testing.assert_close(weights.float(), exact[alpha].attention.float(), atol=0.1, rtol=0)  # type: ignore[union-attr]
        assert float((weights.float().sum(-1) - 1).abs().max()) < 0.01


def test_a_constant_of_zero_is_the_plain_model_bit_for_bit() -> None:
    model = llava_model("llava")
    inputs = llava_batch(model, [5, 9, 3])
    decoder = Decoder(model, prefix_bytes=0)
    plain, found = (decoder.generate(inputs, method) for method in (Baseline(), AddedConstant(0.0)))
    assert torch.equal(found.first_logits, plain.first_logits) and same_tokens(found.sequences, plain.sequences)


WRONG: list[tuple[dict[str, Any], list[str]]] = [
    ({"layers": "3"}, ["layer 3", "layers 0 to 2"]),
    ({"layers": "1-7"}, ["layer 3", "layers 0 to 2"]),
    ({"heads": "L1H4"}, ["head L1H4", "heads 0 to 3"]),
    ({"heads": "L9H0"}, ["layer 9", "layers 0 to 2"]),
]
UNREADABLE: list[tuple[dict[str, Any], list[str]]] = [
    ({"layers": "x"}, ["layers='x'", "14-18+22"]),
    ({"layers": "5-2"}, ["layers='5-2'", "14-18+22"]),
    ({"layers": -1}, ["layers=-1"]),
    ({"layers": 1.5}, ["layers=1.5"]),
    ({"layers": True}, ["layers=True"]),
    ({"layers": []}, ["layers=[]"]),
    ({"layers": "0-999999999"}, ["layers='0-999999999'"]),
    ({"heads": "17.3"}, ["heads='17.3'", "L17H3"]),
    ({"heads": ["L1H1", 4]}, ["heads=['L1H1', 4]"]),
    ({"layers": 1, "heads": "L1H1"}, ["layers=", "heads=", "give one"]),
]


@pytest.mark.parametrize(("where", "words"), WRONG)
def test_layers_and_heads_that_the_model_lacks_are_refused_before_any_pass(
    where: dict[str, Any], words: list[str]
) -> None:
    model = llava_model("llava")
    decoder = Decoder(model)
    inputs = llava_batch(model, [5])
    for decode in (
        lambda: decoder.generate(inputs, ScalingVis(0.5, **where)),
        lambda: decoder.sweep(inputs, [0.5], **where),
    ):
        with pytest.raises(ValueError) as error:
            decode()
        assert all(word in str(error.value) for word in words)
    assert decoder.stats.rows == 0


@pytest.mark.parametrize(("where", "words"), UNREADABLE)
def test_what_names_no_layers_or_heads_is_refused_with_the_form(where: dict[str, Any], words: list[str]) -> None:
    for build in (lambda: ScalingVis(0.5, **where), lambda: AdaptVis(0.5, 1.5, 0.4, **where)):
        with pytest.raises(ValueError) as error:
            build()
        assert all(word in str(error.value) for word in words)


def test_layers_and_heads_are_one_thing_however_they_are_written() -> None:
    assert ScalingVis(0.5, layers="3+1-2") == ScalingVis(0.5, layers=[1, 2, 3]) == ScalingVis(0.5, layers=("1-3",))
    assert ScalingVis(0.5, heads="L2H1+L1H10") == ScalingVis(0.5, heads=["L1H10", "L2H1"])
    assert ScalingVis(0.5, layers=4).layers == (4,)
