"""What an engine cannot do is refused: before it starts, when a request comes, or at the latest before an answer."""

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from adaptvis_plugin.vllm import support
from adaptvis_plugin.vllm.backends.cpu import Backend
from adaptvis_plugin.vllm.steering import Steering
from tests.families import FAMILIES
from tests.families.build import random_model
from tests.vllm.core.engines import DEMO, answers, asked, engine, rows

NGRAM = {"method": "ngram", "num_speculative_tokens": 2, "prompt_lookup_max": 2}
CONNECTOR = {"kv_connector": "ExampleConnector", "kv_role": "kv_both"}


def refused(model: str = DEMO, **options: Any) -> str | None:
    from vllm import EngineArgs

    given = {"model": model, "max_model_len": 256, **options}
    return support.refusal(EngineArgs(**given).create_engine_config())


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"speculative_config": NGRAM}, "speculative decoding, which drafts tokens past the steered one; leave"),
        ({"pipeline_parallel_size": 2}, "pipeline_parallel_size=2; use tensor_parallel_size"),
        ({"kv_cache_dtype": "fp8"}, "kv_cache_dtype=fp8, whose keys are quantised; use kv_cache_dtype=auto"),
        ({"kv_transfer_config": CONNECTOR}, "kv_transfer_config: the steered row may be computed by another engine"),
        ({"kv_offloading_size": 1.0}, "kv_transfer_config: the steered row may be computed by another engine"),
        ({"enable_prompt_embeds": True}, "prompts given as embeddings, which do not say where the image is"),
        ({"attention_backend": "TRITON_ATTN"}, "attention backend=TRITON_ATTN; use CPU_ATTN"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_options_of_the_engine(options: dict[str, Any], reason: str) -> None:
    found = refused(**options)
    assert found is not None and f"requests to {DEMO} cannot be steered here: the engine has {reason}" in found


@pytest.mark.parametrize("options", [{}, {"attention_backend": "CPU_ATTN"}, {"enable_chunked_prefill": False}])
def test_options_that_do_no_harm(options: dict[str, Any]) -> None:
    assert refused(**options) is None


LAYER = "a prefix LM, in which the image sees what comes after it; use another model"
"""Reason of refusal of a family."""


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        ("gemma3", LAYER),
        ("paligemma", LAYER),
        ("qwen3_5", "state-space or linear attention layers; use another model"),
    ],
)
def test_families_that_cannot_be_steered(tmp_path: Path, family: str, reason: str) -> None:
    random_model(FAMILIES[family]).config.save_pretrained(tmp_path)
    found = refused(str(tmp_path), skip_tokenizer_init=True)
    assert found is not None and reason in found
