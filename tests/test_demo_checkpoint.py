"""The embedded checkpoint has the layout of the Hub's LLaVA-1.5 checkpoints (llava-hf/llava-1.5-7b-hf)."""

import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from adaptvis_plugin.paths import DEMO_MODEL
from tests.wrong_input import load

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"

HUB_NAME = re.compile(
    r"""
    language_model\.
        (lm_head|model\.(embed_tokens|norm|layers\.\d+\.
            (input_layernorm|post_attention_layernorm|mlp\.(gate|up|down)_proj|self_attn\.[qkvo]_proj)))
        \.weight
    |multi_modal_projector\.linear_[12]\.(weight|bias)
    |vision_tower\.vision_model\.
        (embeddings\.(class_embedding|(patch|position)_embedding\.weight)
        |(pre_layrnorm|post_layernorm|encoder\.layers\.\d+\.(layer_norm[12]|mlp\.fc[12]|self_attn\.([qkv]|out)_proj))
            \.(weight|bias))
    """,
    re.VERBOSE,
)
"""What a tensor is called there; the misspelt `pre_layrnorm` is CLIP's own name."""


def stored(folder: Path) -> dict[str, torch.dtype]:
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        return {name: file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118  # not a mapping


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script that builds the demo model and saves it."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("demo_architecture")


def test_the_tensors_have_the_names_of_the_hub() -> None:
    tensors = stored(DEMO_MODEL)
    assert [name for name in tensors if not HUB_NAME.fullmatch(name)] == []
    assert set(tensors.values()) == {torch.float16}


def test_the_config_has_the_keys_by_which_other_engines_choose_their_parts() -> None:
    config = json.loads((DEMO_MODEL / "config.json").read_text())
    assert config["architectures"] == ["LlavaForConditionalGeneration"]
    assert config["text_config"]["architectures"] == ["LlamaForCausalLM"]
    assert config["vision_config"]["model_type"] == "clip_vision_model"
    assert {"image_token_index", "image_seq_length", "projector_hidden_act", "vision_feature_layer"} <= set(config)


def test_a_saved_model_has_the_same_layout_and_loads_equal(script: Any, tmp_path: Path) -> None:
    processor = script.build_processor()
    torch.manual_seed(0)
    built = script.build_model(processor)
    script.save(built, processor, tmp_path)
    assert stored(tmp_path) == stored(DEMO_MODEL)
    saved, ours = (json.loads((folder / "config.json").read_text()) for folder in (tmp_path, DEMO_MODEL))
    assert saved == {**ours, "transformers_version": saved["transformers_version"]}

    loaded, _ = load(str(tmp_path))
    expected, found = built.float().state_dict(), loaded.state_dict()
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert loaded.dtype == torch.float32


def test_saving_a_loaded_model_keeps_the_layout(script: Any, tmp_path: Path) -> None:
    """transformers restores the names that it found; they must not get a second `vision_model` level."""
    model, processor = load("demo")
    script.save(model, processor, tmp_path)
    assert stored(tmp_path) == stored(DEMO_MODEL)
