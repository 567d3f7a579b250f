"""What a sweep adds to the decoder's work: answers as text, option probabilities, likeliest tokens, scores, writing."""

import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import CLIPImageProcessor, LlavaProcessor, PreTrainedTokenizerFast

from benchmarks.decoding import ALPHAS
from benchmarks.measure import Settings
from benchmarks.shapes import BOS, IMAGE, SHAPES, random_llava

ROUNDS = 12
AT_MOST = 0.05
"""The most time that all of it may take, as a share of the decoder's: the project's own limit."""


def _timed(seconds: list[float], work: Callable[..., Any], *arguments: Any, **given: Any) -> Any:
    start = time.perf_counter()
    done = work(*arguments, **given)
    seconds.append(time.perf_counter() - start)
    return done


def measure(settings: Settings) -> dict[str, Any]:
    """Sweep some of the demo's rows with a random model, through lmms-eval, and time each batch."""
    # Here, because the other parts can be measured without lmms-eval.
    from lmms_eval.tasks import TaskManager

    from adaptvis_plugin.lmms_eval.sweeping import SweepModel, SweepOptions, sweep_with

    case = settings.cases[0]
    in_batches: list[float] = []
    in_decoder: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_checkpoint(folder / "model", case.shape, settings)
        model: Any = SweepModel(
            str(folder / "model"),
            prompt="paper",
            batch_size=case.batch_size,
            device=settings.device,
            attn_implementation=settings.attention,
        )
        model.record = partial(_timed, in_batches, model.record)
        model.runner.decoder.sweep = partial(_timed, in_decoder, model.runner.decoder.sweep)
        model.options = SweepOptions(folder / "traces", (1.0, *ALPHAS))
        limit = case.batch_size * (ROUNDS + 1)
        (trace,) = sweep_with(model, TaskManager(), ["whatsup_demo"], limit, f"max_new_tokens={settings.tokens}")
        size = trace.stat().st_size / limit
    batches = list(zip(in_batches, in_decoder, strict=True))[1:]  # the first one warms up
    return {
        "case": str(case),
        "batches": len(batches),
        "share": statistics.median(whole / decoder for whole, decoder in batches) - 1,
        "seconds": statistics.median(decoder for _, decoder in batches),
        "bytes": size,
    }


def save_checkpoint(folder: Path, shape: str, settings: Settings) -> None:
    """Save a random model with a processor: a tokenizer of as many words, which knows those of the questions."""
    model = random_llava(SHAPES[shape], settings.device, settings.attention)
    config: Any = model.config
    letters = sorted({*pre_tokenizers.ByteLevel.alphabet()})
    size = config.get_text_config().vocab_size
    words = [*letters, *(f"word{number}" for number in range(size))][:size]
    words[BOS], words[IMAGE] = "<s>", "<image>"
    tokenizer = Tokenizer(models.BPE({word: number for number, word in enumerate(words)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = {"bos_token": "<s>", "pad_token": "<s>", "extra_special_tokens": {"image_token": "<image>"}}
    fast: Any = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    side = config.vision_config.image_size
    LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side}),
        fast,
        patch_size=config.vision_config.patch_size,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    ).save_pretrained(folder)
    model.save_pretrained(folder)


def markdown(report: dict[str, Any]) -> str:
    """Return the figures as a sentence."""
    return (
        f"`adaptvis sweep` of {1 + len(ALPHAS)} coefficients, {report['case']}: beside the decoder's "
        f"{report['seconds']:.3f} seconds for a batch, the rest takes {100 * report['share']:.1f}% more (at most "
        f"{100 * AT_MOST:.0f}%): answers as text, probabilities of the options and of the 20 likeliest tokens, the "
        f"task's metrics for every answer, and writing {report['bytes'] / 1000:.1f} kB for a row. Medians of "
        f"{report['batches']} batches.\n"
    )
