"""A method that edits all tokens after the image takes one pass, with copies of them, where that is exact."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from adaptvis_plugin.decoding import VAF, Baseline, Decoded, Decoder, FirstToken, Method
from adaptvis_plugin.decoding.steering import BLOCK
from tests.cases import MODELS
from tests.families import FAMILIES
from tests.families.build import NOT_TEXT, random_batch, random_model

STRENGTHS = (2.0, 1.0, 0.5)
TEXTS = [3, 7, 5]


@dataclass(frozen=True)
class PerRow(VAF):
    """VAF with a strength of its own for each row.

    Attributes:
        known: Whether the strengths are known before the first token. If not, a complete pass is made.
    """

    suppression: float = 0.5
    by_row: tuple[float, ...] = STRENGTHS
    known: bool = True

    @classmethod
    def check(cls, name: str, value: Any) -> None:
        if name not in ("by_row", "known"):
            super().check(name, value)

    def choose(self, first: FirstToken) -> torch.Tensor:
        return torch.tensor(self.by_row)

    @property
    def alphas(self) -> Any:
        return self.by_row if self.known else None


def decode(decoder: Decoder, batch: dict[str, Any], method: Method) -> Decoded:
    return decoder.generate(batch, method, max_new_tokens=5, suppress_tokens=NOT_TEXT, capture=True)


def same(found: Decoded, expected: Decoded, rows: Any = ()) -> None:
    torch.testing.assert_close(found.first_logits[rows], expected.first_logits[rows], atol=1e-4, rtol=0)
    torch.testing.assert_close(found.confidence[rows], expected.confidence[rows], atol=1e-4, rtol=0)
    assert torch.equal(found.sequences[rows], expected.sequences[rows])
    assert found.attention is not None and expected.attention is not None
    torch.testing.assert_close(found.attention[rows], expected.attention[rows], atol=1e-3, rtol=0)


def passes(decoder: Decoder) -> tuple[int, int]:
    return decoder.stats.packed_passes, decoder.stats.full_passes


@pytest.mark.parametrize("name", MODELS)
def test_one_pass_gives_what_a_complete_pass_gives(name: str) -> None:
    """Texts of different lengths, and two strengths beside the neutral one: each row takes its own copy."""
    family = MODELS[name]
    model = random_model(family)
    batch = random_batch(family, TEXTS)
    method = PerRow()
    one, two = Decoder(model), Decoder(model)
    found, expected = decode(one, batch, method), decode(two, batch, replace(method, known=False))
    assert (passes(one), passes(two)) == ((1, 0), (0, 1))
    same(found, expected)
    plain = decode(Decoder(model), batch, Baseline())
    same(found, plain, [1])
    assert (found.first_logits - plain.first_logits)[[0, 2]].abs().amax() > 0.05


def test_a_long_text_is_computed_in_blocks() -> None:
    model, batch = random_model(FAMILIES["llava"]), random_batch(FAMILIES["llava"], [BLOCK + 20, 4], [1, 2])
    method = PerRow(by_row=STRENGTHS[::2])
    found = decode(Decoder(model), batch, method)
    same(found, decode(Decoder(model), batch, replace(method, known=False)))


def test_a_row_without_an_image_is_left_as_it_is() -> None:
    model, batch = random_model(FAMILIES["llava"]), random_batch(FAMILIES["llava"], TEXTS, [1, 0, 2])
    decoder = Decoder(model)
    method = PerRow(by_row=(2.0, 2.0, 2.0))
    found, plain = decode(decoder, batch, method), decode(Decoder(model), batch, Baseline())
    assert passes(decoder) == (1, 0) and found.alpha.tolist() == [2.0, 1.0, 2.0]
    same(found, plain, [1])
    same(found, decode(Decoder(model), batch, replace(method, known=False)))


def test_tokens_of_an_image_that_see_each_other_are_not_copied() -> None:
    """In Gemma 3 they do, so a shorter text makes the row's image part of what would be copied; another batch packs."""
    family = FAMILIES["gemma3"]
    model = random_model(family)
    decoder, method = Decoder(model), PerRow()
    for texts, expected in ((TEXTS, (0, 1)), ([5, 5, 5], (1, 1))):
        batch = random_batch(family, texts)
        found = decode(decoder, batch, method)
        assert passes(decoder) == expected
        same(found, decode(Decoder(model), batch, replace(method, known=False)))


@pytest.mark.parametrize(("name", "texts"), [("paligemma", TEXTS), ("lfm2_vl", TEXTS), ("llava", [3, 0, 5])])
def test_elsewhere_a_complete_pass_is_made(name: str, texts: list[int]) -> None:
    """Where earlier tokens see later ones, where layers keep a state, and where a prompt ends in an image."""
    decoder = Decoder(random_model(FAMILIES[name]))
    decode(decoder, random_batch(FAMILIES[name], texts), PerRow())
    assert passes(decoder) == (0, 1)
