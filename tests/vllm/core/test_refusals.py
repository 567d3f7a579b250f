"""What an engine cannot do is refused: before it starts, when a request comes, or at the latest before an answer."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from adaptvis_plugin.models.runner import Runner
from adaptvis_plugin.vllm import support
from tests.families import FAMILIES, PROCESSORS
from tests.families.checkpoint import write
from tests.vllm.core.engines import DEMO, answers, asked, check, engine, rows

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


PREFIX = "a prefix LM, in which the image sees what comes after it; use another model"


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        ("gemma3", PREFIX),
        ("paligemma", PREFIX),
        ("qwen3_5", "state-space or linear attention layers; use another model"),
        ("kimi_k25", "multi-head latent attention (MLA), whose cache holds no keys; use another model"),
    ],
)
def test_families_that_cannot_be_steered(tmp_path: Path, family: str, reason: str) -> None:
    write(FAMILIES[family], PROCESSORS[family], tmp_path)
    assert f"requests to {tmp_path} cannot be steered here: the engine has {reason}" == refused(str(tmp_path))


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"adaptvis_alpha": -1}, "adaptvis_alpha=-1"),
        ({"adaptvis_alpha": "0.5"}, "adaptvis_alpha='0.5'"),
        ({"adaptvis_alpha": float("nan")}, "adaptvis_alpha=nan"),
        ({"adaptvis_alpha": float("inf")}, "adaptvis_alpha=inf"),
        ({"adaptvis_alpha": 1e9}, "adaptvis_alpha=1000000000.0: an engine takes coefficients up to 1e+06"),
        ({"adaptvis_layers": 2}, "adaptvis_layers without adaptvis_alpha: give adaptvis_alpha"),
        ({"adaptvis_alpha": 2, "adaptvis_layers": "3-1"}, "adaptvis_layers='3-1': name layers as 14, 14-18"),
        ({"adaptvis_alpha": 2, "adaptvis_heads": "L1"}, "adaptvis_heads='L1': name heads as L17H3"),
        ({"adaptvis_alpha": 2, "adaptvis_layers": 1, "adaptvis_heads": "L1H1"}, "both say what is steered; give one"),
        ({"adaptvis_alpha": 2, "adaptvis_layers": 4}, "layer 4: the model has attention in the layers 0 to 3"),
        ({"adaptvis_alpha": 2, "adaptvis_heads": "L3H4"}, "head L3H4: the model's layers have the heads 0 to 3"),
        ({"adaptvis_alfa": 2}, "unknown argument adaptvis_alfa=2; there are adaptvis_alpha, adaptvis_layers"),
    ],
    ids=str,
)
def test_requests(runner: Runner, llm: Any, given: dict[str, Any], complaint: str) -> None:
    from vllm import SamplingParams
    from vllm.exceptions import VLLMValidationError

    row = rows(runner, 1)[0]
    with pytest.raises(VLLMValidationError) as error:
        llm.generate(asked(row), SamplingParams(max_tokens=1, extra_args=given), use_tqdm=False)
    assert complaint in str(error.value)
    check(runner, llm, [row, row.under(2)], 2)  # and the engine goes on


@pytest.fixture(scope="module")
def llm() -> Iterator[Any]:
    with engine() as made:
        yield made


def test_a_prompt_that_may_still_grow(runner: Runner, llm: Any) -> None:
    from vllm import SamplingParams
    from vllm.exceptions import VLLMValidationError

    params = SamplingParams(max_tokens=1, extra_args={"adaptvis_alpha": 2})
    own = llm.llm_engine
    with pytest.raises(VLLMValidationError, match="adaptvis_alpha=2: the prompt may still grow"):
        own.input_processor.process_inputs(
            "one", asked(rows(runner, 1)[0]), params, supported_tasks=("generate",), resumable=True
        )


STOCK = "vllm.v1.attention.backends.cpu_attn.CPUAttentionBackend"


def test_a_backend_that_was_replaced_again_steers_nothing_and_says_so(runner: Runner) -> None:
    from vllm.v1.attention import selector
    from vllm.v1.attention.backends.registry import AttentionBackendEnum, register_backend

    ours, row = AttentionBackendEnum.CPU_ATTN.get_path(), rows(runner, 1)[0]
    register_backend(AttentionBackendEnum.CPU_ATTN, STOCK)
    selector._cached_get_attn_backend.cache_clear()
    try:
        with engine() as stock:
            check(runner, stock, [row], 2)
            with pytest.raises(RuntimeError, match=f"layers.0.* has the attention backend {STOCK}, which cannot steer"):
                answers(stock, [row.under(2)], 2)
    finally:
        register_backend(AttentionBackendEnum.CPU_ATTN, ours)
        selector._cached_get_attn_backend.cache_clear()


def attention(llm: Any, number: int) -> Any:
    """Return a layer of the engine's text decoder."""
    layers = llm.llm_engine.vllm_config.compilation_config.static_forward_context
    return layers[f"language_model.model.layers.{number}.self_attn.attn"]


def test_one_layer_that_is_not_steered_ends_the_request(runner: Runner) -> None:
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackendImpl

    row = rows(runner, 1)[0]
    with engine() as llm:
        check(runner, llm, [row, row.under(2)], 2)
        impl = attention(llm, 2).impl
        impl.forward = CPUAttentionBackendImpl.forward.__get__(impl)  # as another plugin could do it
        llm.reset_prefix_cache()
        check(runner, llm, [row], 2)
        with pytest.raises(RuntimeError, match=r"1 of 4 attention layers did not steer.*layers\.2\."):
            answers(llm, [row.under(2)], 2)


def test_a_layer_with_more_than_the_formula_knows_of_ends_the_request(runner: Runner) -> None:
    row = rows(runner, 1)[0]
    with engine() as llm:
        attention(llm, 1).impl.alibi_slopes = torch.zeros(4)  # changes nothing, but could
        check(runner, llm, [row], 2)
        with pytest.raises(RuntimeError, match="attention layer 1 has alibi_slopes, with which its rows cannot be"):
            answers(llm, [row.under(2)], 2)


UNTESTED = """
import vllm
{change}
from vllm import LLM, SamplingParams
from vllm.exceptions import VLLMValidationError

llm = LLM({model!r}, dtype="float32", enforce_eager=True, max_model_len=256, num_gpu_blocks_override=50)
assert llm.generate("left or right?", SamplingParams(max_tokens=2), use_tqdm=False)[0].outputs[0].text
assert llm.generate("left?", SamplingParams(max_tokens=2, extra_args={{"adaptvis_alpha": 1}}), use_tqdm=False)
try:
    llm.generate("left or right?", SamplingParams(max_tokens=2, extra_args={{"adaptvis_alpha": 0.5}}), use_tqdm=False)
except VLLMValidationError as error:
    print("refused:", error)
"""
NEWER = "vllm.__version__ = '0.33.1'"
WITHOUT_V2 = """
import vllm.v1.worker.gpu.sample.logits_processor as found
del found.LogitsProcessor
"""


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (NEWER, "vLLM 0.33.1: steering was tested with vLLM 0.32 and replaces parts of it; pip install"),
        (WITHOUT_V2, "has no vllm.v1.worker.gpu.sample.logits_processor:LogitsProcessor.add_request, which steering"),
    ],
    ids=["newer", "without the interface of model runner V2"],
)
def test_a_vllm_that_was_not_tested_answers_what_is_plain(change: str, reason: str) -> None:
    """It stands for other versions, which cannot be installed beside this one."""
    script = UNTESTED.format(model=DEMO, change=change)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "refused: adaptvis_alpha=0.5: " in done.stdout and reason in done.stdout, done.stdout
    assert "Requests cannot be steered: vLLM" in done.stderr, "it is also said at the start"
