"""Questions that share pictures, in VSR's proportion: 1222 questions about 715 pictures."""

from functools import partial
from typing import Any

import torch

from adaptvis_plugin.decoding import Decoder
from benchmarks.decoding import ADAPTVIS
from benchmarks.measure import in_turn, ratio
from benchmarks.shapes import SHAPES, random_batch, random_llava

QUESTIONS, PICTURES = 48, 28


def measure(shape: str, device: str, attention: str, batch_size: int, tokens: int, rounds: int) -> dict[str, Any]:
    """AdaptVis over the whole set, with prefixes shared and not; the questions stand as the adapter asks them."""
    model = random_llava(SHAPES[shape], device, attention)

    def questions(number: int) -> list[dict[str, torch.Tensor]]:
        rows = random_batch(model, QUESTIONS, seed=number)
        # As `SteeredModel` does: those about one picture follow each other.
        picture = sorted(row % PICTURES for row in range(QUESTIONS))
        rows["pixel_values"] = rows["pixel_values"][picture]
        starts = range(0, QUESTIONS, batch_size)
        return [{name: tensor[start : start + batch_size] for name, tensor in rows.items()} for start in starts]

    # One decoder for each way: a decoder makes sure once, in its first batch, that sharing is exact for its model.
    decoders = {"shared": Decoder(model), "not shared": Decoder(model, prefix_bytes=0)}

    def run(decoder: Decoder, batches: list[dict[str, torch.Tensor]]) -> None:
        for batch in batches:
            decoder.generate(batch, ADAPTVIS, max_new_tokens=tokens)

    seconds = in_turn({name: partial(run, decoder) for name, decoder in decoders.items()}, questions, rounds, device)
    stats = decoders["shared"].stats
    return {
        "speed": ratio(seconds["not shared"], seconds["shared"]),
        "share of prefixes reused": stats.prefixes_reused / stats.rows,
    }


def markdown(report: dict[str, Any]) -> str:
    """The report in a sentence."""
    return (
        f"{QUESTIONS} questions about {PICTURES} pictures, as many to a picture as in VSR. Sharing the pictures' "
        f"prefill answers them {report['speed']:.2f} times as fast (at least 1.4): "
        f"{100 * report['share of prefixes reused']:.0f}% of the prefixes were another question's.\n"
    )
