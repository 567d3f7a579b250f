"""Where the further methods act, by what they choose, and what they refuse; see test_decoders for their formulas."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from adaptvis_plugin.decoding import (
    PAI,
    SLA,
    VAF,
    AdaptVis,
    Baseline,
    DeCo,
    Decoder,
    DoLa,
    FirstToken,
    HeadsGuided,
    Method,
    YesBias,
)
from adaptvis_plugin.decoding.first_token import jensen_shannon
from adaptvis_plugin.decoding.mixing import plausible
from tests import decoders_oracle as slow
from tests.cases import MODELS
from tests.decoders_oracle import Passes, Rule
from tests.families.build import IMAGE, NOT_TEXT, TEXT, random_batch, random_model
from tests.families.standard import CLIP
from tests.test_decoders import TOLERANCE, Setting, case, difference

PLAIN = Setting(Baseline(), slow.plain())
HEADS = "L0H1+L2H0+L2H3"
PLACES: dict[str, tuple[dict[str, Any], tuple[tuple[int, tuple[int, ...] | None], ...]]] = {
    "one layer": ({"layers": 1}, ((1, None),)),
    "two layers": ({"layers": "0+2"}, ((0, None), (2, None))),
    "single heads": ({"heads": HEADS}, ((0, (1,)), (2, (0, 3)))),
}
EDITS: dict[str, tuple[Any, Callable[[Any], Rule]]] = {
    "pai": (PAI(0.5), lambda places: slow.pai(0.5, places)),
    "headsguided": (HeadsGuided(0.5), lambda places: slow.heads_guided(0.5, places)),
    "vaf": (VAF(1.5, 0.6), lambda places: slow.vaf(1.5, 0.6, places)),
}


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("method", EDITS)
def test_a_method_acts_in_the_layers_and_heads_that_are_named(method: str, where: str) -> None:
    of, (everywhere, rule), (named, places) = case("qwen2_vl"), EDITS[method], PLACES[where]
    setting = Setting(replace(everywhere, **named), rule(places))
    expected, (ours, _) = of.expected(setting), of.decoded(setting)
    assert float((expected.logits[0] - of.expected(PLAIN).logits[0]).abs().max()) > 100 * TOLERANCE
    assert difference(ours.first_logits, expected.logits[0]) <= TOLERANCE
    assert torch.equal(ours.sequences, expected.sequences)


@dataclass(frozen=True)
class PerRow(PAI):
    """PAI with a strength for each row."""

    @property
    def alphas(self) -> tuple[float, ...]:
        return (0.0, 0.5, 1.0)

    def choose(self, first: FirstToken) -> torch.Tensor:
        return torch.tensor(self.alphas)


def test_each_row_has_its_own_strength() -> None:
    of = case("aya_vision")
    ours, _ = of.decoded(Setting(PerRow(), slow.plain()))
    for row, alpha in enumerate((0.0, 0.5, 1.0)):
        expected = of.expected(Setting(PAI(alpha), slow.pai(alpha, slow.published(2, 31, 3))))
        assert difference(ours.first_logits[row], expected.logits[0, row]) <= TOLERANCE
        assert torch.equal(ours.sequences[row], expected.sequences[row])


@pytest.mark.parametrize("name", ["qwen2_vl", "softcap"])
@pytest.mark.parametrize("method", EDITS)
def test_a_sweep_over_strengths_has_the_answers_of_each(method: str, name: str) -> None:
    of, everywhere = case(name), EDITS[method][0]
    swept = of.decoder.sweep(of.inputs, [0.5, 2.0], method=everywhere, max_new_tokens=5, suppress_tokens=NOT_TEXT)
    assert list(swept) == [everywhere.neutral, 0.5, 2.0]
    for strength, ours in swept.items():
        alone, _ = of.decoded(Setting(replace(everywhere, **{str(everywhere.strength): strength}), slow.plain()))
        assert difference(ours.first_logits, alone.first_logits) <= TOLERANCE
        assert torch.equal(ours.sequences, alone.sequences)


DEPTH = 16
DEEP = replace(
    MODELS["llava"],
    config={
        "vision_config": CLIP,
        "text_config": {**TEXT, "model_type": "llama", "num_hidden_layers": DEPTH},
        "image_token_index": IMAGE,
        "vision_feature_layer": -2,
    },
    scale=4.0,
)
DEFAULTS: dict[str, tuple[Method, Rule]] = {
    "pai": (PAI(0.5), slow.pai(0.5, [(layer, None) for layer in range(1, 16)])),
    "headsguided": (HeadsGuided(0.5), slow.heads_guided(0.5, [(layer, None) for layer in range(2, 10)])),
    "vaf": (VAF(1.5, 0.6), slow.vaf(1.5, 0.6, [(layer, None) for layer in range(4, 8)])),
    "dola": (DoLa(), slow.dola(0.1, (8, 9, 10, 11, 12, 13, 14, 15))),
    "deco": (DeCo(), slow.deco(0.6, 0.9, 20, (10, 11, 12, 13, 14))),
    "sla": (SLA(), slow.sla(0.3, (13, 14, 15))),
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_published_layers_stand_for_the_same_share_of_the_depth(name: str) -> None:
    model, inputs = random_model(DEEP), random_batch(DEEP, [3, 5], [1, 1])
    method, rule = DEFAULTS[name]
    expected = slow.decode(Passes(model, inputs, IMAGE), rule, 2, NOT_TEXT)
    ours = Decoder(model).generate(inputs, method, max_new_tokens=2, suppress_tokens=NOT_TEXT)
    assert difference(ours.first_logits, expected.logits[0]) <= TOLERANCE
    assert torch.equal(ours.sequences, expected.sequences)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (PAI(layers=3), "layer 3: the model has attention in the layers 0 to 2"),
        (HeadsGuided(layers="1-4"), "layer 3: the model has attention in the layers 0 to 2"),
        (VAF(heads="L1H4"), "head L1H4: the model's layers have the heads 0 to 3"),
        (DoLa(layers="1+3"), "layer 3: an exit comes after 0 to 2 of the model's 3 layers"),
        (DeCo(layers=7), "layer 7: an exit comes after 0 to 2 of the model's 3 layers"),
        (SLA(layers=3), "layer 3: an exit comes after 0 to 2 of the model's 3 layers"),
    ],
)
def test_layers_and_heads_that_a_model_lacks_are_refused_with_those_it_has(method: Method, message: str) -> None:
    of = case("llava")
    with pytest.raises(ValueError, match=message):
        of.decoder.check(method)
    with pytest.raises(ValueError, match=message):
        of.decoder.generate(of.inputs, method)


def options_of(logits: torch.Tensor) -> list[dict[str, list[int]]]:
    """Return options of each row: one or two words of them may be likely."""
    return [{"left": [8 + row], "right": [20 + row, 40 + row], "on": [30 + row]} for row in range(len(logits))]


def measured(gate: str, p: torch.Tensor, options: dict[str, list[int]]) -> float:
    """Return what a gate compares, of one row's probabilities."""
    if gate == "confidence":
        return round(float(p.max()), 2)
    if gate == "options":
        each = [float(p[tokens].sum()) for tokens in options.values()]
        return round(max(each) / sum(each), 2)
    if gate == "entropy":
        return float(-(p * p.log()).sum())
    return float(jensenshannon(p.numpy(), [1 / len(p)] * len(p)) ** 2)


class TwoParts(SLA):
    """Read early layers, and edit attention by default."""

    attention = Method.attention  # type: ignore[assignment]  # which has none


class Biased(YesBias):
    """Change the first logits, and edit attention by default."""

    attention = Method.attention  # type: ignore[assignment]  # which has none


@pytest.mark.parametrize(("method", "named"), [(TwoParts(), "early exits"), (Biased(), "changed first logits")])
def test_parts_that_do_not_go_together_are_refused(method: Method, named: str) -> None:
    with pytest.raises(ValueError, match=f"{type(method).__name__} has {named} beside another part; only an edit"):
        case("llava").decoder.check(method)


@pytest.mark.parametrize("gate", ["confidence", "options", "entropy", "divergence"])
def test_a_gate_compares_what_the_plain_model_says_with_the_threshold(gate: str) -> None:
    of = case("qwen2_vl")
    plain = of.expected(PLAIN).logits[0]
    options = options_of(plain)
    found = [measured(gate, p, own) for p, own in zip(plain.double().softmax(-1), options, strict=True)]
    low, middle, high = sorted(found)
    assert low < high
    for threshold in ((low + middle) / 2, (middle + high) / 2, low, high + 0.01):
        unsure = [one > threshold if gate == "entropy" else one < threshold for one in found]
        ours, _ = of.decoded(Setting(AdaptVis(0.5, 1.5, threshold, gate=gate), slow.plain()), options=options)
        assert ours.alpha.tolist() == [0.5 if row else 1.5 for row in unsure]


def test_yes_bias_says_yes_as_the_first_token_where_yes_and_no_are_near_a_tie() -> None:
    of = case("llava")
    plain = of.expected(PLAIN)
    likely = plain.logits[0].index_fill(-1, torch.tensor(NOT_TEXT), -torch.inf).topk(3).indices.tolist()
    never = plain.logits[0].argmin(-1).tolist()
    options = [
        {"Yes": [likely[0][1], never[0]], "No": [likely[0][0]]},  # near a tie
        {"Yes": [never[1]], "No": [likely[1][0]]},  # neither is likely
        {"Yes": [never[2]], "No": likely[2]},  # No is much likelier
    ]
    method = YesBias(margin=0.03, least=0.06)  # a random model is sure of nothing
    yes = [slow.says_yes(*one, 0.03, 0.06) for one in zip(plain.logits[0], options, strict=True)]
    assert yes == [True, False, False]
    ours, _ = of.decoded(Setting(method, slow.plain()), options=options)
    for row, own in enumerate(options):
        first = int(ours.sequences[row, 0])
        others = [token for token in range(ours.first_logits.shape[-1]) if token != own["Yes"][0]]
        assert first == (own["Yes"][0] if yes[row] else int(plain.sequences[row, 0]))
        assert difference(ours.first_logits[row, others], plain.logits[0, row, others]) <= TOLERANCE


LOGITS = st.lists(st.floats(-20, 20, width=32), min_size=2, max_size=12)


@settings(max_examples=50, deadline=None)
@given(LOGITS, st.floats(0, 1))
def test_a_token_is_plausible_if_its_probability_is_at_least_beta_times_the_largest(
    own: list[float], beta: float
) -> None:
    logits = torch.tensor([own], dtype=torch.float64)
    kept = plausible(logits, logits, beta)[0].isfinite()
    p = logits[0].softmax(-1)
    clear = (p - beta * p.max()).abs() > 1e-9  # not so near to the bound that rounding decides
    assert torch.equal(kept[clear], (p >= beta * p.max())[clear])
    assert bool(kept[p.argmax()])


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 12).flatmap(lambda n: st.tuples(*[st.lists(st.floats(-20, 20), min_size=n, max_size=n)] * 2)))
def test_the_jensen_shannon_divergence_is_scipys_distance_squared(both: tuple[list[float], list[float]]) -> None:
    first, second = (torch.tensor(one, dtype=torch.float64).log_softmax(-1) for one in both)
    expected = jensenshannon(first.exp().numpy(), second.exp().numpy()) ** 2
    assert float(jensen_shannon(first, second)) == pytest.approx(expected, abs=1e-9)
