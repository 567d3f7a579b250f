"""Engines of vLLM, and what this project's own decoder says about the same rows."""

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from PIL import Image
from transformers import LogitsProcessor

from adaptvis_plugin.data.demo.rows import demo_rows
from adaptvis_plugin.decoding import ScalingVis
from adaptvis_plugin.models.answers import Prompt
from adaptvis_plugin.models.runner import Runner
from adaptvis_plugin.paths import DEMO_MODEL
from adaptvis_plugin.vllm.steering import Steering

DEMO = str(DEMO_MODEL)
PLAIN = Steering(1.0)
TOLERANCE = 5e-5  # of log-probabilities in fp32, over up to 60 tokens; without the prefix cache's hash, 1e-2
NEVER = -1  # no token: answers go on to their full length
LOGPROBS = 5


@dataclass(frozen=True)
class Row:
    """A prompt, rendered as the project renders it, with its images and what is asked of the attention."""

    text: str
    images: tuple[Image.Image, ...]
    steering: Steering = PLAIN

    def under(self, alpha: float, **places: Any) -> "Row":
        """Return the same prompt under another steering."""
        return Row(self.text, self.images, Steering(alpha, **places))

    def longer(self, text: str) -> "Row":
        """Return the same with more text at the end."""
        return Row(self.text + text, self.images, self.steering)


@dataclass
class Answer:
    """The tokens of an answer, and the log-probabilities of the most likely tokens at each of them."""

    tokens: list[int]
    logprobs: list[dict[int, float]] = field(repr=False)
    cached: int = 0
    prompt: tuple[int, ...] = ()


@cache
def demo() -> list[tuple[str, Image.Image]]:
    """The questions and the pictures of the demo data set."""
    return [(row["question"], row["image"]) for row in demo_rows()[:24]]


def rows(runner: Runner, count: int, more: str = "") -> list[Row]:
    """Return rows of the demo data set, of different lengths."""
    found = []
    for place, (question, image) in enumerate(demo()[:count]):
        asked = question + more * place
        message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": asked}]}
        found.append(Row(runner.render([message], asked), (image,)))
    return found


@contextmanager
def engine(model: str = DEMO, **options: Any) -> Iterator[Any]:
    """Yield an engine of vLLM in this process."""
    from vllm import LLM

    given = {
        "dtype": "float32",
        "enforce_eager": True,
        "max_model_len": 512,
        "max_num_seqs": 16,
        "block_size": 32,
        "num_gpu_blocks_override": 400,
        "limit_mm_per_prompt": {"image": 2},
        "disable_log_stats": False,
        "generation_config": "vllm",
        **options,
    }
    llm = LLM(model, **given)
    try:
        yield llm
    finally:
        del llm
        gc.collect()


def asked(row: Row) -> dict[str, Any]:
    """Return a row's prompt as vLLM takes it."""
    given: dict[str, Any] = {"prompt": row.text}
    return given | ({"multi_modal_data": {"image": list(row.images)}} if row.images else {})


def answers(llm: Any, asks: Sequence[Row], tokens: int = 8, **params: Any) -> list[Answer]:
    """Answer rows in one call, all of them to the full length."""
    from vllm import SamplingParams

    every = [
        SamplingParams(
            temperature=0,
            max_tokens=tokens,
            ignore_eos=True,
            logprobs=LOGPROBS,
            extra_args=row.steering.extra_args() or None,
            **params,
        )
        for row in asks
    ]
    found = llm.generate([asked(row) for row in asks], every, use_tqdm=False)
    return [
        Answer(
            list(out.outputs[0].token_ids),
            [{token: one.logprob for token, one in place.items()} for place in out.outputs[0].logprobs],
            out.num_cached_tokens,
            tuple(out.prompt_token_ids),
        )
        for out in found
    ]


class _Recorder(LogitsProcessor):
    def __init__(self) -> None:
        self.found: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.found.append(scores[0].float().log_softmax(-1))
        return scores


def expected(runner: Runner, row: Row, tokens: int = 8) -> Answer:
    """Answer a row, by itself, with this project's decoder."""
    key = (id(runner), row.text, tuple(map(id, row.images)), row.steering, tokens)
    if key not in _known:
        _known[key] = _expected(runner, row, tokens)
    return _known[key]


_known: dict[Any, Answer] = {}


def _expected(runner: Runner, row: Row, tokens: int) -> Answer:
    steering, seen = row.steering, _Recorder()
    inputs = runner.encode([Prompt(row.text, row.images)]).to(runner.model.device, runner.model.dtype).inputs
    out = runner.decoder.generate(
        inputs,
        ScalingVis(steering.alpha, layers=steering.layers, heads=steering.heads),
        max_new_tokens=tokens,
        eos_token_id=NEVER,
        suppress_tokens=None,
        logits_processor=[seen],
    )
    places = [out.first_logits[0].float().log_softmax(-1), *seen.found[1 - tokens :][: tokens - 1]]
    return Answer(
        out.sequences[0].tolist(),
        [dict(enumerate(place.tolist())) for place in places],
        prompt=tuple(inputs["input_ids"][0].tolist()),
    )


def differences(found: Answer, wanted: Answer) -> list[float]:
    """Return the largest difference of a log-probability in each place of an answer."""
    return [
        max(abs(value - theirs[token]) for token, value in ours.items())
        for ours, theirs in zip(found.logprobs, wanted.logprobs, strict=True)
    ]


def same(found: Answer, wanted: Answer, what: object, tolerance: float = TOLERANCE) -> None:
    """Check that two answers are the same, and come from the same prompt."""
    assert found.prompt == wanted.prompt, what
    assert found.tokens == wanted.tokens, what
    off = differences(found, wanted)
    assert max(off) < tolerance, (what, off)


def check(runner: Runner, llm: Any, asks: Sequence[Row], tokens: int = 8, tolerance: float = TOLERANCE) -> list[Answer]:
    """Check that vLLM answers rows as this project's decoder does; return its answers."""
    found = answers(llm, asks, tokens)
    for row, answer in zip(asks, found, strict=True):
        same(answer, expected(runner, row, tokens), row.steering, tolerance)
    return found


def counted(llm: Any, name: str) -> int:
    """Return a counter of vLLM's metrics, which count over all engines of a process."""
    return sum(metric.value for metric in llm.get_metrics() if metric.name == f"vllm:{name}")


def uses_v2(llm: Any) -> bool:
    """Return whether the engine has vLLM's model runner V2."""
    from vllm.v1.worker.gpu.model_runner import GPUModelRunner

    worker = llm.llm_engine.engine_core.engine_core.model_executor.driver_worker.worker
    return isinstance(worker.model_runner, GPUModelRunner)
