"""Engines that cannot steer: they refuse what asks for it, and answer all else as if this package were not there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("vllm")

from openai import BadRequestError, OpenAI

from adaptvis_plugin.paths import DEMO_MODEL
from tests.vllm.serving import environment, request, said, serving

DRAFTS = '{"method": "ngram", "num_speculative_tokens": 2, "prompt_lookup_max": 2}'


def test_with_speculative_decoding_vllm_would_leave_the_steering_out(tmp_path: Path) -> None:
    with serving(tmp_path, "--enforce-eager", "--speculative-config", DRAFTS) as address:
        client = OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=120)
        plain = said(client.chat.completions.create(**request(0)))
        with pytest.raises(BadRequestError) as error:
            client.chat.completions.create(**request(0, {"adaptvis_alpha": 0.5}))
        assert error.value.status_code == 400
        message = (
            "the engine has speculative decoding, which drafts tokens past the steered one; leave speculative_conf"
        )
        assert message in str(error.value) and "adaptvis_alpha=0.5" in str(error.value)
        assert said(client.chat.completions.create(**request(0, {"adaptvis_alpha": 1})))[0] == plain[0]


WITHOUT_THE_PLUGIN = """
from vllm import LLM, SamplingParams
from vllm.exceptions import VLLMValidationError
from vllm.v1.attention.backends.registry import AttentionBackendEnum

llm = LLM({model!r}, dtype="float32", enforce_eager=True, max_model_len=512)
assert AttentionBackendEnum.CPU_ATTN.get_path().startswith("vllm."), "vLLM's own backend"
assert llm.generate("Where is", SamplingParams(temperature=0, max_tokens=1))[0].outputs[0].token_ids
try:
    llm.generate("Where is", SamplingParams(temperature=0, extra_args={{"adaptvis_alpha": 0.5}}))
except VLLMValidationError as error:
    print(error)
"""


def test_a_vllm_that_is_told_to_leave_the_plugin_out(tmp_path: Path) -> None:
    """It loads the logits processor all the same."""
    env = {**os.environ, **environment(tmp_path), "VLLM_PLUGINS": "", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    code = WITHOUT_THE_PLUGIN.format(model=str(DEMO_MODEL))
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "adaptvis_alpha=0.5: this vLLM runs without the plugin adaptvis" in done.stdout
    assert "add adaptvis to VLLM_PLUGINS" in done.stdout
