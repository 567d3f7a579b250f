"""What the first token's logits say, with the tokenizer of the embedded model."""

from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from adaptvis_plugin.models.first_token import OptionTokens, entropy, top_tokens
from adaptvis_plugin.paths import DEMO_MODEL


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(DEMO_MODEL)


def token(tokenizer: Any, word: str) -> int:
    (found,) = tokenizer(word, add_special_tokens=False)["input_ids"]
    return int(found)


def logits(tokenizer: Any, **values: float) -> torch.Tensor:
    """One row in which only these words are possible."""
    row = torch.full((1, len(tokenizer)), -torch.inf)
    for word, value in values.items():
        row[0, token(tokenizer, word)] = value
    return row


def test_the_entropy_is_in_nats(tokenizer: Any) -> None:
    assert entropy(torch.zeros(2, 8)).tolist() == pytest.approx([2.0794415, 2.0794415])
    assert entropy(logits(tokenizer, Left=0.0, Right=0.0)).tolist() == pytest.approx([0.6931472])


def test_the_likeliest_tokens_come_first_and_impossible_ones_not_at_all(tokenizer: Any) -> None:
    (row,) = top_tokens(logits(tokenizer, Left=1.0, Right=2.0, On=0.0), tokenizer)
    assert [text for _, text, _ in row] == ["Right", "Left", "On"]
    assert [number for number, _, _ in row] == [token(tokenizer, text) for _, text, _ in row]
    assert sum(torch.tensor([value for *_, value in row]).exp()) == pytest.approx(1)
    assert [len(row) for row in top_tokens(torch.randn(3, 500), tokenizer)] == [20, 20, 20]


def test_options_share_the_probability_that_their_first_tokens_have(tokenizer: Any) -> None:
    rows = torch.cat(
        [logits(tokenizer, Left=1.0, Right=2.0, On=7.0), logits(tokenizer, Left=0.0, Right=0.0, Under=3.0)]
    )
    asked = [("left", "right"), ("left", "right", "under")]
    one, other = OptionTokens(tokenizer).log_probabilities(rows, asked)
    assert {name: torch.tensor(value).exp().item() for name, value in one.items()} == pytest.approx(
        {"left": 0.2689414, "right": 0.7310586}
    )
    assert list(other) == list(asked[1]) and sum(torch.tensor(list(other.values())).exp()) == pytest.approx(1)
    assert other["left"] == other["right"] < other["under"]


def test_every_way_of_writing_an_option_counts(tokenizer: Any) -> None:
    rows = torch.full((1, len(tokenizer)), -torch.inf)
    for word, value in (("Left", 0.6), (" left", 0.2), ("Right", 0.2)):
        rows[0, token(tokenizer, word)] = torch.tensor(value).log()
    for options in (("left", "right"), ("Left", "Right")):
        (found,) = OptionTokens(tokenizer).log_probabilities(rows, [options])
        assert torch.tensor(list(found.values())).exp().tolist() == pytest.approx([0.8, 0.2])


def test_a_word_without_a_space_before_it_counts_to_sentencepiece_too() -> None:
    """As Llama's: it reads every text as if a space came before it, but answers without one behind a special token."""
    pieces = [
        "<unk>",
        "\u2581",
        "\n",
        *(space + word for word in ("left", "Left", "right") for space in ("\u2581", "")),
    ]
    backend = Tokenizer(models.Unigram([(piece, -float(place)) for place, piece in enumerate(pieces)], unk_id=0))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    backend.decoder = decoders.Metaspace()
    found = OptionTokens(PreTrainedTokenizerFast(tokenizer_object=backend)).of(("left", "right"))
    assert found is not None
    assert [[pieces[token] for token in own if token] for own in found] == [
        ["\u2581left", "left", "\u2581Left", "Left"],
        ["\u2581right", "right"],
    ]


@pytest.mark.parametrize("options", [(), ("left", "left"), ("Left", "left")])
def test_options_that_cannot_be_told_apart_have_no_probabilities(options: tuple[str, ...], tokenizer: Any) -> None:
    assert OptionTokens(tokenizer).log_probabilities(torch.zeros(1, len(tokenizer)), [options]) == [{}]


def test_options_that_are_all_impossible_have_no_probabilities(tokenizer: Any) -> None:
    possible = OptionTokens(tokenizer).log_probabilities(logits(tokenizer, On=1.0), [("left", "right")])
    assert possible == [{}]
