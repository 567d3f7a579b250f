"""ScalingVis, AdaptVis, a sweep, capturing and the authors' procedure compared with plain `generate`."""

import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from adaptvis_plugin.attention.form import Header
from adaptvis_plugin.attention.record import Record
from adaptvis_plugin.attention.store import AttentionStore
from adaptvis_plugin.decoding import AdaptVis, Baseline, Decoder, ScalingVis
from benchmarks import over_plain
from benchmarks.authors import two_complete_generations
from benchmarks.measure import Case, Settings, Work, ratio
from benchmarks.over_plain import PLAIN, Bounds

ALPHAS = [0.5, 0.8, 1.2, 1.5, 2.0]
ADAPTVIS = AdaptVis(alpha_low=0.5, alpha_high=1.5, threshold=0.4)
AUTHORS, SWEEP = "the authors' procedure", "sweep over 6 alphas"
CAPTURED = "attention captured and written"
CAPTURE_BOUND = (1.25, 1.10)
BOUNDS: Bounds = {
    ("scaled", 4): {"ScalingVis": (1.05, 1.05), "AdaptVis": (1.05, 1.05), SWEEP: (1.20, 1.20), CAPTURED: CAPTURE_BOUND},
    ("scaled", 1): {"ScalingVis": (1.07, 1.05), "AdaptVis": (1.07, 1.05), SWEEP: (1.30, 1.20), CAPTURED: CAPTURE_BOUND},
    ("small", 1): {"ScalingVis": (1.05, None), "AdaptVis": (1.05, None), SWEEP: (1.60, None), CAPTURED: (1.25, None)},
}
AUTHORS_AT_LEAST = {("scaled", 4): 2.0}
"""The least time that the authors' procedure takes compared with AdaptVis, in the same conditions."""
ROUNDS = {("scaled", 4): 14, ("scaled", 1): 28, ("small", 1): 56}
"""Enough for medians that vary by 1 to 2 percent. Multiples of 7, so that each of the 7 variants is first as often."""


def variants(model: Any, tokens: int) -> dict[str, Work]:
    """Return the variants of answering a batch. Each has its own decoder, so that none finds another's prefixes."""

    def decode(run: Callable[[Decoder, Any], Any]) -> Work:
        decoder = Decoder(model)
        return lambda batch: run(decoder, batch)

    return {
        PLAIN: lambda batch: model.generate(**batch, max_new_tokens=tokens, do_sample=False),
        "Baseline": decode(lambda d, batch: d.generate(batch, Baseline(), max_new_tokens=tokens)),
        "ScalingVis": decode(lambda d, batch: d.generate(batch, ScalingVis(alpha=0.8), max_new_tokens=tokens)),
        "AdaptVis": decode(lambda d, batch: d.generate(batch, ADAPTVIS, max_new_tokens=tokens)),
        SWEEP: decode(lambda d, batch: d.sweep(batch, ALPHAS, max_new_tokens=tokens)),
        CAPTURED: decode(Capture(model, tokens)),
        AUTHORS: lambda batch: two_complete_generations(model, batch, ADAPTVIS, tokens),
    }


class Capture:
    """The unsteered answers with the attention of all layers and heads, which is written to disk as it comes.

    Args:
        model: The model.
        tokens: Length of an answer.
    """

    def __init__(self, model: Any, tokens: int) -> None:
        self._tokens = tokens
        self._folder = tempfile.TemporaryDirectory(prefix="adaptvis-benchmark-")
        self._store = AttentionStore(Path(self._folder.name))
        self._rows = itertools.count()
        decoder = Decoder(model)
        header = Header(
            task="benchmark", rows=0, model="random", dtype=str(model.dtype).removeprefix("torch."), prompt="chat",
            conditions=("1.0",), layers=decoder.layers, heads=decoder.heads,
        )  # fmt: skip
        self._store.resume(header)

    def __call__(self, decoder: Decoder, batch: Any) -> None:
        """Answer a batch, and write what was captured."""
        out = decoder.generate(batch, Baseline(), max_new_tokens=self._tokens, capture=True)
        assert out.attention is not None
        ids = batch["input_ids"]
        image = (ids == decoder.image_token_id).cpu().numpy()
        each = zip(out.attention.cpu().numpy(), ids.int().cpu().numpy(), image, strict=True)
        self._store.add(Record(next(self._rows), w[None], own, i, None, (), ()) for w, own, i in each)


def measure(settings: Settings) -> dict[str, Any]:
    """Measure the time and the peak memory of every variant in every case."""
    return {str(case): _measure(case, settings) for case in settings.cases}


def _measure(case: Case, settings: Settings) -> dict[str, Any]:
    figures, seconds = over_plain.measure("decoding", case, settings, BOUNDS)
    key = (case.shape, case.batch_size)
    return {
        **figures,
        "authors / AdaptVis": ratio(seconds[AUTHORS], seconds["AdaptVis"]),
        "authors at least": AUTHORS_AT_LEAST.get(key) if over_plain.bounds_hold(settings) else None,
    }


def markdown(report: dict[str, Any]) -> str:
    """Return the figures as `over_plain` does, and the authors' procedure over AdaptVis."""

    def authors(measured: dict[str, Any]) -> str:
        least = measured["authors at least"]
        return f"{measured['authors / AdaptVis']:.2f}" + (f" (at least {least:g})" if least else "")

    ending = "The authors' procedure over AdaptVis: " + ", ".join(authors(measured) for measured in report.values())
    return f"{over_plain.markdown(report)}\n{ending}.\n"
