"""Questions that share pictures, in VSR's proportion: 1222 questions about 715 pictures."""

from functools import partial
from typing import Any

import torch

from adaptvis_plugin.decoding import Decoder
from benchmarks.decoding import ADAPTVIS
from benchmarks.measure import Settings, in_turn, ratio
from benchmarks.shapes import SHAPES, random_batch, random_llava

QUESTIONS, PICTURES = 48, 28


def measure(settings: Settings) -> dict[str, Any]:
    """Measure AdaptVis over the whole set with and without shared prefixes, in the order in which an adapter asks."""
    case = settings.cases[0]
    model = random_llava(SHAPES[case.shape], settings.device, settings.attention)

    def questions(number: int) -> list[dict[str, torch.Tensor]]:
        rows = random_batch(model, QUESTIONS, seed=number)
        # Questions about one picture follow each other, as in `SteeredModel`.
        picture = sorted(row % PICTURES for row in range(QUESTIONS))
        rows["pixel_values"] = rows["pixel_values"][picture]
        size = case.batch_size
        starts = range(0, QUESTIONS, size)
        return [{name: tensor[start : start + size] for name, tensor in rows.items()} for start in starts]

    # One decoder for all rounds: in its first batch, a decoder checks once that sharing is exact for its model.
    decoders = {"shared": Decoder(model), "not shared": Decoder(model, prefix_bytes=0)}

    def run(decoder: Decoder, batches: list[dict[str, torch.Tensor]]) -> None:
        for batch in batches:
            decoder.generate(batch, ADAPTVIS, max_new_tokens=settings.tokens)

    variants = {name: partial(run, decoder) for name, decoder in decoders.items()}
    seconds = in_turn(variants, questions, min(case.rounds, 3), settings.device, "sharing")
    stats = decoders["shared"].stats
    return {
        "speed": ratio(seconds["not shared"], seconds["shared"]),
        "share of prefixes reused": stats.prefixes_reused / stats.rows,
    }


def markdown(report: dict[str, Any]) -> str:
    """Return the figures as a sentence."""
    return (
        f"{QUESTIONS} questions about {PICTURES} pictures, as many to a picture as in VSR. Sharing the pictures' "
        f"prefill answers them {report['speed']:.2f} times as fast (at least 1.4): "
        f"{100 * report['share of prefixes reused']:.0f}% of the prefixes were another question's.\n"
    )
