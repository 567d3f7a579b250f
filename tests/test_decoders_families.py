"""The further methods on every supported family: one of each part, compared with its formula (see decoders_oracle)."""

from functools import cache
from typing import Any

import pytest

from adaptvis_plugin.decoding import PAI, VAF, VCD, Decoder, DoLa
from tests import decoders_oracle as slow
from tests.decoders_oracle import Passes
from tests.families import FAMILIES
from tests.families.build import IMAGE, NOT_TEXT, random_batch, random_model
from tests.second_views import noised, without_image
from tests.test_decoders import TOLERANCE, Setting, allowed, difference, watched

NEW_TOKENS = 3


def setting(method: str, model: Any) -> Setting:
    """Return a method under strong settings, in the layers of a model that have attention."""
    text = model.config.get_text_config(decoder=True)
    kinds = getattr(text, "layer_types", None) or ["full_attention"] * text.num_hidden_layers
    attend = [i for i, kind in enumerate(kinds) if kind not in ("linear_attention", "conv")]
    depth = text.num_hidden_layers
    everywhere = [(layer, None) for layer in attend]
    return {
        "vcd": Setting(VCD(1.0, 0.1), slow.contrast(1.0, 0.1, needs_image=True), noised),
        "pai with guidance": Setting(PAI(0.5, gamma=1.5), slow.pai_guided(0.5, everywhere, 1.5, 0.1), without_image),
        "vaf": Setting(VAF(1.5, 0.6, layers=attend), slow.vaf(1.5, 0.6, everywhere)),
        "dola": Setting(DoLa(0.1), slow.dola(0.1, slow.published_exits(range(16, 32, 2), depth))),
    }[method]


@cache
def case(name: str) -> tuple[Decoder, dict[Any, Passes]]:
    """Return a family's random model, and the complete passes over a batch of two rows and over their views."""
    family = FAMILIES[name]
    model = random_model(family)
    inputs = random_batch(family, [3, 7], [1, 1])
    types = {"answer_type": family.prefix_types[2]}
    passes = {
        None: Passes(model, inputs, IMAGE, family.own_positions, **types),
        noised: Passes(model, noised(inputs), IMAGE, family.own_positions, **types),
        without_image: Passes(model, without_image(inputs), IMAGE, **types),
    }
    return Decoder(model), passes


@pytest.mark.parametrize("method", ["vcd", "pai with guidance", "vaf", "dola"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_method_is_its_formula_in_every_family(name: str, method: str) -> None:
    decoder, passes = case(name)
    under = setting(method, decoder.model)
    plain = passes[None].after([]).logits
    expected = slow.decode(passes[None], under.rule, NEW_TOKENS, NOT_TEXT, passes[under.view])
    assert float((expected.logits[0] - plain)[expected.logits[0].isfinite()].abs().max()) > 100 * TOLERANCE

    second = None if under.view is None else passes[under.view].inputs
    ours, logits = watched(decoder, passes[None].inputs, under.method, NEW_TOKENS, second=second)
    assert difference(ours.first_logits, expected.logits[0]) <= TOLERANCE
    assert difference(logits, allowed(expected.logits)) <= TOLERANCE
    assert ours.sequences.tolist() == expected.sequences.tolist()
    assert difference(ours.confidence, expected.confidence) <= 1e-5
