"""Other kinds of attention: small random checkpoints of real families, in vLLM and by this project's own decoder."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from adaptvis_plugin.models.arguments import ModelArguments
from adaptvis_plugin.models.runner import Runner
from tests.families import FAMILIES, PROCESSORS
from tests.families.adapters import picture
from tests.families.build import Family
from tests.families.checkpoint import write
from tests.vllm.core.engines import Row, answers, check, differences, engine, expected

WIDE = {"hidden_size": 128, "head_dim": 32}
"""vLLM's kernel for CPUs has no heads as small as those of the other tests."""

GEMMA2 = {
    "model_type": "gemma2",
    "sliding_window": 12,
    "attn_logit_softcapping": 5.0,
    "final_logit_softcapping": None,
    "query_pre_attn_scalar": 8,
}
MROPE = {"rope_parameters": {"rope_type": "default", "mrope_section": [8, 4, 4], "rope_theta": 10000.0}}
# What a test shows -> the family, and what its text decoder and its vision tower have instead.
KINDS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "grouped queries": ("llava", {}, {}),
    "softcap and a sliding window": ("llava", GEMMA2, {}),
    "M-RoPE": ("qwen2_5_vl", MROPE, {"out_hidden_size": 128}),
}


def widened(family: Family, text: dict[str, Any], vision: dict[str, Any]) -> Family:
    own = family.config
    changed = {
        "text_config": {**own["text_config"], **WIDE, **text},
        "vision_config": {**own["vision_config"], **vision},
    }
    return dataclasses.replace(family, config={**own, **changed})


def named_as_on_the_hub(folder: Path) -> None:
    """Add the level of names that the Hub's LLaVA checkpoints have, and transformers no longer writes."""
    file, tower = folder / "model.safetensors", "vision_tower."
    tensors = {name.replace(tower, f"{tower}vision_model."): tensor for name, tensor in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})


@pytest.mark.parametrize("kind", KINDS)
def test_a_random_model_of_the_family(tmp_path: Path, kind: str) -> None:
    name, text, vision = KINDS[kind]
    write(widened(FAMILIES[name], text, vision), PROCESSORS[name], tmp_path)
    named_as_on_the_hub(tmp_path)
    given = {"pretrained": str(tmp_path), "dtype": "float32", "attn_implementation": "eager"}  # sdpa knows no softcap
    runner = Runner(ModelArguments(method="scalingvis", alpha=1.0, **given))

    def row(question: str, *pictures: Any) -> Row:
        images = [{"type": "image"} for _ in pictures]
        chat = [{"role": "user", "content": [*images, {"type": "text", "text": question}]}]
        return Row(runner.render(chat, question), pictures)

    one, other = row("Where is the mug?", picture(48, 32, 0)), row("Where is the mug? On it?", picture(40, 40, 2))
    two, none = row("Is it left?", picture(32, 64, 1), picture(48, 48, 3)), row("What is a mug?")
    asks = [one, one.under(0.25), other.under(3), two.under(0), one.under(4, layers="1-2"), none.under(2)]
    asks += [two.under(3, heads="L0H1+L2H3")]
    with engine(str(tmp_path)) as llm:
        check(runner, llm, asks, 12, tolerance=2e-4)
        again = answers(llm, asks, 12)
    assert all(len(answer.prompt) - answer.cached <= 32 for answer in again)
    assert differences(expected(runner, one, 12), expected(runner, one.under(4), 12))[0] > 0.01, "steering is seen"
