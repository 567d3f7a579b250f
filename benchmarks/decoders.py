"""Every other decoder compared with plain `generate`."""

from functools import partial
from typing import Any

import torch

from adaptvis_plugin.decoding import ICD, M3ID, PAI, SLA, VAF, VCD, DeCo, Decoder, DoLa, HeadsGuided, Method, YesBias
from adaptvis_plugin.decoding.parts import NoImage, NoisedImage, OtherQuestion
from benchmarks import over_plain
from benchmarks.decoding import BOUNDS as OF_DECODING
from benchmarks.measure import Settings, Work
from benchmarks.over_plain import PLAIN, Bounds

METHODS: dict[str, Method] = {
    "vcd": VCD(),
    "icd": ICD(),
    "m3id": M3ID(),
    "pai": PAI(),
    "pai, gamma 1.1": PAI(gamma=1.1),
    "vaf": VAF(),
    "headsguided": HeadsGuided(),
    "dola": DoLa(),
    "deco": DeCo(),
    "sla": SLA(),
    "yesbias": YesBias(),
}
"""The methods with their published values; published layers scale with the model's depth."""
EDIT, EXITS, SECOND, WITHOUT_IMAGE = 1.10, 1.35, 2.1, 1.5
TIME_AT_MOST = {
    **dict.fromkeys(("pai", "vaf", "headsguided"), EDIT),
    **dict.fromkeys(("dola", "deco", "sla"), EXITS),
    **dict.fromkeys(("vcd", "icd"), SECOND),
    **dict.fromkeys(("m3id", "pai, gamma 1.1"), WITHOUT_IMAGE),
}
OF_TEXT = ("m3id", "pai, gamma 1.1", "vaf")
"""The methods whose cost is that of the text: a prefill of it without the image, or copies of all of it.

Their bounds are for prompts like LLaVA-1.5's, where the text is a twentieth. In the small shape it is a third.
"""
BOUNDS: Bounds = {
    (shape, batch_size): {
        name: (most, None) for name, most in TIME_AT_MOST.items() if shape == "scaled" or name not in OF_TEXT
    }
    for shape, batch_size in OF_DECODING
}
INSTRUCTION = 20
"""Tokens of another question's longer text."""
YES, NO = 11, 12


def variants(model: Any, tokens: int) -> dict[str, Work]:
    """Return a variant for each method. Each has its own decoder, so that none finds another's prefixes."""
    works: dict[str, Work] = {PLAIN: partial(_plain, model, tokens)}
    works |= {name: partial(_decode, Decoder(model), method, tokens) for name, method in METHODS.items()}
    return works


def _plain(model: Any, tokens: int, batch: dict[str, torch.Tensor]) -> None:
    model.generate(**batch, max_new_tokens=tokens, do_sample=False)


def _decode(decoder: Decoder, method: Method, tokens: int, batch: dict[str, torch.Tensor]) -> None:
    second = None if method.second is None else view_of(batch, method.second.view, decoder.image_token_id)
    options = [{"Yes": (YES,), "No": (NO,)}] * len(batch["input_ids"])
    decoder.generate(batch, method, max_new_tokens=tokens, second=second, options=options)


def view_of(
    batch: dict[str, torch.Tensor], view: NoisedImage | NoImage | OtherQuestion, image_token_id: int
) -> dict[str, torch.Tensor]:
    """Return the inputs of a second stream, which depend on the kind of the view alone."""
    ids = batch["input_ids"]
    if isinstance(view, NoisedImage):
        return {**batch, "pixel_values": batch["pixel_values"] + torch.randn_like(batch["pixel_values"])}
    if isinstance(view, NoImage):
        text = ids[ids != image_token_id].view(len(ids), -1)
        return {"input_ids": text, "attention_mask": torch.ones_like(text)}
    longer = torch.cat([ids, ids[:, -INSTRUCTION:]], 1)
    return {**batch, "input_ids": longer, "attention_mask": torch.ones_like(longer)}


def measure(settings: Settings) -> dict[str, Any]:
    """Measure the time and the peak memory of every method in every case."""
    return {str(case): over_plain.measure("decoders", case, settings, BOUNDS)[0] for case in settings.cases}


def markdown(report: dict[str, Any]) -> str:
    """Return the figures; see `over_plain`."""
    return over_plain.markdown(report)
