"""The methods on a vLLM engine, compared with the plain model there and with the same method without an engine.

It runs in the environment of `make vllm`. The checkpoint has random weights of a shape and a tokenizer of its own, and
is asked through its real processor: by both with the same prompts and images.
"""

import os
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import CLIPImageProcessor, LlavaProcessor, PreTrainedTokenizerFast

from adaptvis_plugin.decoding import AdaptVis, Baseline, Method
from adaptvis_plugin.models.answers import Prompt
from adaptvis_plugin.models.arguments import ModelArguments
from adaptvis_plugin.models.runner import Runner
from benchmarks.measure import Settings, Work, in_turn, peak_memory, ratio, reset_peak_memory, table
from benchmarks.shapes import IMAGE, SHAPES, TEXT_TOKENS, Shape, random_llava

ROWS = (1, 2, 4, 8, 16)
"""Rows that are answered at once."""

BASELINE, ADAPTVIS, WITHOUT = "vllm_baseline", "vllm_adaptvis", "vlm_adaptvis"
TIME_AT_MOST = 1.35
"""The most time that AdaptVis may take on an engine compared with the plain model there: the project's own limit."""

METHOD = AdaptVis(alpha_low=0.5, alpha_high=1.5, threshold=0.4)
"""A random model is never sure, so every row is steered."""


@dataclass(frozen=True)
class Question:
    """A question with its picture."""

    text: str
    image: Image.Image


def write_checkpoint(folder: Path, shape: Shape) -> None:
    """Write a random LLaVA of a shape, with a tokenizer that has a word for each token."""
    model = random_llava(shape, "cpu", "sdpa")
    # With the names of the Hub's checkpoints, which vLLM reads; transformers writes all of them but this level's.
    tower = "model.vision_tower."
    tensors = {name.replace(tower, f"{tower}vision_model."): tensor for name, tensor in model.state_dict().items()}
    model.save_pretrained(folder, state_dict=tensors)
    words = {"<unk>": 0, "<s>": 1, **{f"w{number}": number for number in range(2, IMAGE)}, "<image>": IMAGE}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    special: dict[str, Any] = {"pad_token": "<unk>", "unk_token": "<unk>", "bos_token": "<s>"}
    LlavaProcessor(
        CLIPImageProcessor(
            size={"shortest_edge": shape.image}, crop_size={"height": shape.image, "width": shape.image}
        ),
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, additional_special_tokens=["<image>"], **special),
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
    ).save_pretrained(folder)


def questions(rows: int, side: int, seed: int) -> list[Question]:
    """Return questions of `TEXT_TOKENS` words, each with a picture of its own."""
    draw = np.random.default_rng(seed)

    def one() -> Question:
        words = " ".join(f"w{number}" for number in draw.integers(2, IMAGE, TEXT_TOKENS - 1))
        pixels = draw.integers(0, 256, (side, side, 3), dtype=np.uint8)
        return Question(f"<s> <image> {words}", Image.fromarray(pixels))

    return [one() for _ in range(rows)]


def variants(folder: Path, tokens: int) -> dict[str, Work]:
    """Return the ways to answer questions, the plain model on the engine first."""
    # In this process, so that its memory counts, and with as many threads as the others have.
    threads = str(torch.get_num_threads())
    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    os.environ.setdefault("OMP_NUM_THREADS", threads)
    from vllm import LLM

    llm = LLM(
        str(folder),
        dtype="float32",
        max_model_len=1024,
        max_num_seqs=max(ROWS),
        block_size=32,  # the smallest on a CPU, where 128 is the default; on CUDA it is 16
        gpu_memory_utilization=0.3,  # on a CPU, the share of its memory that must be free
        kv_cache_memory_bytes=2**30,
        limit_mm_per_prompt={"image": 1},
        enforce_eager=True,
    )
    runner = Runner(ModelArguments(method="adaptvis", pretrained=str(folder), prompt="paper", dtype="float32"))
    return {
        BASELINE: partial(_on_engine, llm, Baseline(), tokens),
        ADAPTVIS: partial(_on_engine, llm, METHOD, tokens),
        WITHOUT: partial(_without_engine, runner, METHOD, tokens),
    }


def _on_engine(llm: Any, method: Method, tokens: int, asked: list[Question]) -> None:
    from adaptvis_plugin.vllm import generate

    # No variant may find what another one has left.
    llm.reset_prefix_cache()
    llm.reset_mm_cache()
    llm.llm_engine.reset_encoder_cache()
    prompts = [{"prompt": one.text, "multi_modal_data": {"image": one.image}} for one in asked]
    generate(llm, prompts, method, use_tqdm=False, max_new_tokens=tokens)


def _without_engine(runner: Runner, method: Method, tokens: int, asked: list[Question]) -> None:
    runner.answer([Prompt(one.text, (one.image,)) for one in asked], method, max_new_tokens=tokens)


def measure(settings: Settings) -> dict[str, Any]:
    """Measure rows per second and peak memory of every variant, with more and more rows at once."""
    case = settings.cases[0]
    shape = SHAPES[case.shape]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_checkpoint(folder, shape)
        works = variants(folder, settings.tokens)
        by_rows = {str(rows): _measure(works, rows, shape.image, case.rounds) for rows in ROWS}
    return {"shape": case.shape, "tokens": settings.tokens, "rounds": case.rounds, "rows": by_rows}


def _measure(works: dict[str, Work], rows: int, side: int, rounds: int) -> dict[str, dict[str, float]]:
    seconds = in_turn(
        works, lambda number: questions(rows, side, number), rounds, "cpu", f"serving: {rows} rows at once"
    )
    memory = {}
    for name, work in works.items():
        reset_peak_memory("cpu")
        work(questions(rows, side, rounds + 1))
        memory[name] = peak_memory("cpu")
    return {
        name: {
            "rows per second": ratio([float(rows)] * rounds, seconds[name]),
            f"time / {BASELINE}": ratio(seconds[name], seconds[BASELINE]),
            f"peak memory / {BASELINE}": memory[name] / memory[BASELINE],
        }
        for name in works
    }


def markdown(report: dict[str, Any]) -> str:
    """Return the figures as a table for each of them."""
    by_rows = report["rows"]
    names = list(next(iter(by_rows.values())))
    head = [
        f"Random LLaVA of the shape {report['shape']}; every row a picture and a text of its own, answers of "
        f"{report['tokens']} tokens; medians of {report['rounds']} rounds. Every row is steered. {ADAPTVIS} may take "
        f"{TIME_AT_MOST} times as long as {BASELINE}."
    ]
    tables = [
        table(
            [f"{figure}, by rows at once", *by_rows],
            [[name, *(f"{found[name][figure]:.{digits}f}" for found in by_rows.values())] for name in names],
        )
        for figure, digits in (
            ("rows per second", 1),
            (f"time / {BASELINE}", 2),
            (f"peak memory / {BASELINE}", 2),
        )
    ]
    return "\n\n".join([*head, *tables]) + "\n"
