"""Every further method compared with its formula, computed slowly (see decoders_oracle)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import pytest
import torch

from adaptvis_plugin.decoding import (
    ICD,
    M3ID,
    PAI,
    SLA,
    VAF,
    VCD,
    Baseline,
    DeCo,
    Decoded,
    Decoder,
    DoLa,
    HeadsGuided,
    Method,
    YesBias,
    second_stream,
)
from tests import decoders_oracle as slow
from tests.cases import MODELS, NEW_TOKENS
from tests.decoders_oracle import Expected, Inputs, Passes, Rule
from tests.families.build import IMAGE, NOT_TEXT, PAD, random_batch, random_model
from tests.families.check import same_tokens
from tests.second_views import asked_otherwise, joined, noised, without_image

TOLERANCE = 1e-4
TEXTS = [17, 9, 12]  # with an image, every prompt is longer than every sliding window
IMAGES = {"an image in each row": [1, 1, 1], "a row without an image and one with two": [2, 0, 1]}
ALL = ((0, None), (1, None), (2, None))  # the layers of the models


@dataclass(frozen=True)
class Setting:
    """A method under strong settings, its formula, and how its second stream is made."""

    method: Method
    rule: Rule
    view: Callable[[Inputs], Inputs] | None = None


SETTINGS = {
    "vcd": Setting(VCD(1.0, 0.2), slow.contrast(1.0, 0.2, needs_image=True), noised),
    "icd": Setting(ICD(1.0, 0.1), slow.contrast(1.0, 0.1, needs_image=False), asked_otherwise),
    "m3id": Setting(M3ID(0.5, beta=0.1), slow.m3id(0.5, 0.1), without_image),
    "pai": Setting(PAI(0.5), slow.pai(0.5, slow.published(2, 31, 3))),
    "pai with guidance": Setting(
        PAI(0.5, gamma=1.5, beta=0.1), slow.pai_guided(0.5, slow.published(2, 31, 3), 1.5, 0.1), without_image
    ),
    "vaf": Setting(VAF(1.5, 0.6), slow.vaf(1.5, 0.6, slow.published(9, 14, 3))),
    "headsguided": Setting(HeadsGuided(0.5), slow.heads_guided(0.5, slow.published(5, 18, 3))),
    "dola": Setting(DoLa(0.1), slow.dola(0.1, (1, 2))),
    "dola from the embeddings on": Setting(DoLa(0.01, layers="0-2"), slow.dola(0.01, (0, 1, 2))),
    "deco": Setting(DeCo(0.6), slow.deco(0.6, 0.9, 20, (1, 2))),
    "deco with few candidates": Setting(DeCo(2.0, top_p=0.8, top_k=3, layers="0+2"), slow.deco(2.0, 0.8, 3, (0, 2))),
    "sla": Setting(SLA(0.3), slow.sla(0.3, (2,))),
    "sla over several exits": Setting(SLA(0.6, layers="0-2"), slow.sla(0.6, (0, 1, 2))),
}


@dataclass(frozen=True)
class Case:
    """A model with single rows, their batch, and all complete passes over it."""

    model: Any
    rows: list[Inputs]
    own_positions: bool
    passes: dict[Any, Passes]

    @property
    def inputs(self) -> Inputs:
        return joined(self.rows)

    @cached_property
    def decoder(self) -> Decoder:
        return Decoder(self.model)

    def expected(self, setting: Setting) -> Expected:
        return slow.decode(self._passes(None), setting.rule, NEW_TOKENS, NOT_TEXT, self._passes(setting.view))

    def _passes(self, view: Callable[[Inputs], Inputs] | None) -> Passes:
        if view not in self.passes:
            inputs = self.inputs if view is None else joined([view(row) for row in self.rows])
            own_positions = self.own_positions and view is not without_image
            self.passes[view] = Passes(self.model, inputs, IMAGE, own_positions)
        return self.passes[view]

    def decoded(
        self, setting: Setting, rows: Sequence[int] = (0, 1, 2), **options: Any
    ) -> tuple[Decoded, torch.Tensor]:
        """Decode some rows; return the result, and the logits of each token, shape (tokens, batch, vocabulary)."""
        chosen = [self.rows[row] for row in rows]
        second = None if setting.view is None else joined([setting.view(row) for row in chosen])
        return watched(self.decoder, joined(chosen), setting.method, NEW_TOKENS, second=second, **options)


def watched(
    decoder: Decoder, inputs: Inputs, method: Method, tokens: int, **options: Any
) -> tuple[Decoded, torch.Tensor]:
    """Decode a batch; return the result, and the logits of each token, shape (tokens, batch, vocabulary)."""
    each: list[torch.Tensor] = []

    def keep(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        each.append(scores[:: len(scores) // len(inputs["input_ids"])].clone())
        return scores

    out = decoder.generate(
        inputs, method, max_new_tokens=tokens, suppress_tokens=NOT_TEXT, logits_processor=[keep], **options
    )
    logits = torch.stack(each or [allowed(out.first_logits)])  # Janus' own `generate` drops the caller's processors
    return out, logits.masked_fill(logits < -5e3, -torch.inf)  # what a method rules out is put far behind the rest


@cache
def case(name: str, images: str = "an image in each row") -> Case:
    family, counts = MODELS[name], IMAGES[images]
    rows = [random_batch(family, [TEXTS[i]], [counts[i]], seed=i) for i in range(3)]
    return Case(random_model(family), rows, family.own_positions, {})


def difference(ours: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest difference over the finite entries, which must be the same ones."""
    assert torch.equal(ours.isfinite(), expected.isfinite())
    return float((ours - expected)[expected.isfinite()].abs().max())


def allowed(logits: torch.Tensor) -> torch.Tensor:
    """Return logits with the tokens ruled out that are never generated."""
    return logits.index_fill(-1, torch.tensor(NOT_TEXT), -torch.inf)


@pytest.mark.parametrize("images", IMAGES)
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("method", SETTINGS)
def test_a_method_is_its_formula_at_every_token(method: str, name: str, images: str) -> None:
    of = case(name, images)
    expected, (ours, logits) = of.expected(SETTINGS[method]), of.decoded(SETTINGS[method])
    assert difference(ours.first_logits, expected.logits[0]) <= TOLERANCE
    assert difference(logits, allowed(expected.logits)) <= TOLERANCE
    assert torch.equal(ours.sequences, expected.sequences)
    assert difference(ours.confidence, expected.confidence) <= 1e-5


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("method", SETTINGS)
def test_the_effect_of_a_method_is_visible_from_token_to_token(method: str, name: str) -> None:
    of = case(name)
    steered, plain = of.expected(SETTINGS[method]), of.expected(Setting(Baseline(), slow.plain()))
    effect = [
        float((under - without)[under.isfinite()].abs().max())
        for under, without in zip(steered.logits, plain.logits, strict=False)
    ]
    if method == "m3id":  # its first token is plain by construction
        assert effect.pop(0) == 0
    # Later tokens may stand more than a sliding window behind the image.
    assert min(effect[:2]) > 100 * TOLERANCE


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("method", SETTINGS)
def test_no_row_depends_on_its_neighbours(method: str, name: str) -> None:
    of, setting = case(name, "a row without an image and one with two"), SETTINGS[method]
    together, logits = of.decoded(setting)
    for row in range(3):
        alone, by_itself = of.decoded(setting, [row])
        assert difference(by_itself[:, 0], logits[: len(by_itself), row]) <= TOLERANCE
        assert same_tokens(alone.sequences[0], together.sequences[row])
        assert alone.alpha[0] == together.alpha[row]


NEUTRAL = {
    "vcd": VCD(0.0),
    "icd": ICD(0.0),
    "m3id": M3ID(0.0),
    "pai": PAI(0.0),
    "vaf": VAF(1.0, 0.6),
    "headsguided": HeadsGuided(0.0),
    "deco": DeCo(0.0),
    "sla": SLA(0.0),
    "yesbias": YesBias(0.0),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("method", NEUTRAL)
def test_neutral_settings_are_plain_decoding_bit_for_bit(method: str, name: str) -> None:
    of, plain = replace(case(name)), Setting(Baseline(), slow.plain())  # no image is cached yet
    view = SETTINGS[method].view if method in SETTINGS else None
    ours, logits = of.decoded(Setting(NEUTRAL[method], slow.plain(), view), options=[{"Yes": [8], "No": [9]}] * 3)
    expected, each = replace(of).decoded(plain)
    assert torch.equal(ours.first_logits, expected.first_logits)
    assert torch.equal(logits, each)
    assert torch.equal(ours.sequences, expected.sequences)
    assert torch.equal(ours.confidence, expected.confidence)


@pytest.mark.parametrize("name", MODELS)
def test_dola_with_the_likeliest_token_alone_gives_plain_answers(name: str) -> None:
    of = case(name)
    ours, _ = of.decoded(Setting(DoLa(1.0), slow.plain()))
    assert torch.equal(ours.sequences, of.decoded(Setting(Baseline(), slow.plain()))[0].sequences)


def test_where_a_processor_rules_out_all_that_a_method_leaves_the_next_likeliest_token_is_said() -> None:
    of = case("llava")
    plain, _ = of.decoded(Setting(Baseline(), slow.plain()), [0])
    first, second = plain.first_logits[0].topk(2).indices.tolist()
    ours = of.decoder.generate(of.rows[0], DoLa(1.0), max_new_tokens=1, suppress_tokens=[first])
    assert ours.first_logits[0].isfinite().nonzero().flatten().tolist() == [first]
    assert ours.sequences.tolist() == [[second]]


def test_a_row_and_its_view_say_the_same_whatever_a_processor_makes_of_their_prompts() -> None:
    of = case("qwen2_vl")
    options: dict[str, Any] = {"repetition_penalty": 2.0, "no_repeat_ngram_size": 1}
    almost_plain = Setting(ICD(1e-9, 0.0), slow.plain(), asked_otherwise)
    ours, logits = of.decoded(almost_plain, **options)
    plain, each = of.decoded(Setting(Baseline(), slow.plain()), **options)
    words = slice(PAD + 1, None)  # the view is longer, and to transformers' processors padding is part of a prompt
    assert difference(logits[..., words], each[..., words]) <= TOLERANCE
    assert torch.equal(ours.sequences, plain.sequences)


def test_a_second_stream_that_is_longer_goes_with_an_image_that_is_cached() -> None:
    of, setting = replace(case("llava")), SETTINGS["icd"]
    expected = of.expected(setting)
    for _ in range(3):
        _, logits = of.decoded(setting)
        assert difference(logits, allowed(expected.logits)) <= TOLERANCE
    assert of.decoder.stats.prefixes_reused > 0


@pytest.mark.parametrize("rows", [(0, 1, 2), (1,)])
@pytest.mark.parametrize("name", MODELS)
def test_a_second_stream_that_is_longer_goes_with_prompts_that_are_prefilled_without_padding(
    name: str, rows: Sequence[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is shared, so the prompts are padded to the views' length behind their prefill."""
    of, setting, rooms = case(name), SETTINGS["icd"], []
    pass_ = second_stream.PairedPass

    def seen(*given: Any, **options: Any) -> Any:
        rooms.append(given[3])
        return pass_(*given, **options)

    monkeypatch.setattr("adaptvis_plugin.decoding.execution.PairedPass", seen)
    decoder = Decoder(of.model, prefix_bytes=0)
    chosen = [of.rows[row] for row in rows]
    assert setting.view is not None
    second = joined([setting.view(row) for row in chosen])
    found, logits = watched(decoder, joined(chosen), setting.method, NEW_TOKENS, second=second)
    assert rooms[-1] > 0
    expected = of.expected(setting)
    assert difference(logits, allowed(expected.logits)[:, list(rows)][: len(logits)]) <= TOLERANCE
    assert torch.equal(found.sequences, expected.sequences[list(rows), : found.sequences.shape[1]])
