"""Checkpoints that are damaged, or not there: the error names the folder and the file, on one line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from adaptvis_plugin.paths import DEMO_MODEL
from tests.wrong_input import (
    WEIGHTS,
    checkpoint,
    config,
    first_shard_of_two,
    load,
    only,
    pickled,
    refusal,
    text_config,
    weights,
)

ORIGINAL_LLAVA = {"architectures": ["LlavaLlamaForCausalLM"], "mm_vision_tower": "openai/clip-vit-large-patch14-336"}

CHECKPOINTS: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "truncated weights": (
        lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:100_000]),
        [WEIGHTS, "not readable", "download it again"],
    ),
    "an error page as weights": (
        lambda f: (f / WEIGHTS).write_text("<html>404 not found</html>"),
        [WEIGHTS, "not readable", "download it again"],
    ),
    "a Git LFS pointer as weights": (
        lambda f: (f / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"),
        [WEIGHTS, "Git LFS pointer"],
    ),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), ["not a complete checkpoint", WEIGHTS, "Download"]),
    "a missing shard": (first_shard_of_two, ["1 of its 2 files", "model-00002-of-00002.safetensors", "Download"]),
    "an index that is not JSON": (
        lambda f: first_shard_of_two(f, "{"),
        [f"{WEIGHTS}.index.json is not readable", "download it again"],
    ),
    "an index without shards": (lambda f: first_shard_of_two(f, "{}"), [f"{WEIGHTS}.index.json is not readable"]),
    "weights of another width": (
        lambda f: text_config(f, intermediate_size=300),
        ["12 of its weights do not fit its config.json", "down_proj.weight is [128, 352] and not [128, 300]"],
    ),
    "weights of fewer layers": (
        lambda f: text_config(f, num_hidden_layers=5),
        ["9 of its weights", "layers.4.input_layernorm.weight is missing", "incomplete"],
    ),
    "weights without the projector": (
        lambda f: weights(f, lambda name: "projector" not in name),
        ["4 of its weights", "linear_1.bias is missing", "random numbers"],
    ),
    "an unknown quantisation": (
        lambda f: config(f, quantization_config={"quant_method": "squash"}),
        ["does not know how its weights are quantised", "use another checkpoint"],
    ),
    "a quantisation without a method": (
        lambda f: config(f, quantization_config={"bits": 4}),
        ["does not know how its weights are quantised", "use another checkpoint"],
    ),
    "an error page as pickled weights": (
        lambda f: (f / WEIGHTS).rename(f / "pytorch_model.bin").write_text("<html>404 not found</html>"),
        ["pytorch_model.bin", "not readable", "download it again"],
    ),
    "truncated pickled weights": (
        lambda f: pickled(f).write_bytes(pickled(f).read_bytes()[:100_000]),
        ["pytorch_model.bin", "not readable", "download it again"],
    ),
    "no tokenizer": (
        lambda f: only(f, WEIGHTS, "config.json", "processor_config.json"),
        ["its processor (tokenizer and image processor) cannot be loaded", "tokenizer.json", "download all its files"],
    ),
    "tokenizer.json lost": (
        lambda f: (f / "tokenizer.json").unlink(),
        ["its processor (tokenizer and image processor) cannot be loaded", "tokenizer.json", "download all its files"],
    ),
    "a tokenizer that is not JSON": (
        lambda f: (f / "tokenizer.json").write_text('{"version": "1'),
        ["tokenizer.json is not readable", "download it again"],
    ),
    "no processor": (
        lambda f: (f / "processor_config.json").unlink(),
        ["its processor (tokenizer and image processor) cannot be loaded", "preprocessor_config.json or"],
    ),
    "a processor that is not JSON": (
        lambda f: (f / "processor_config.json").write_text(""),
        ["processor_config.json is not readable", "download it again"],
    ),
    "a config that is not JSON": (
        lambda f: (f / "config.json").write_text("{"),
        ["config.json is not readable", "download it again"],
    ),
    "a config that is a list": (
        lambda f: (f / "config.json").write_text("[]"),
        ["config.json names no model_type", "llava-hf"],
    ),
    "a config without model_type": (lambda f: config(f, model_type=None), ["names no model_type", "llava-hf"]),
    "an unknown model_type": (
        lambda f: config(f, model_type="llavva"),
        ["model type 'llavva' is unknown to transformers", "a newer one", "llava-hf"],
    ),
    "a config value of the wrong type": (
        lambda f: config(f, vision_feature_layer="last"),
        ["config.json cannot be used", "vision_feature_layer", "Correct it"],
    ),
    "a config that contradicts itself": (
        lambda f: text_config(f, num_attention_heads=3),
        ["config.json cannot be used", "128", "Correct it"],
    ),
    "an empty folder": (lambda f: only(f), ["not a complete checkpoint", "no config.json", "Give the one that does"]),
    "only weights": (
        lambda f: only(f, WEIGHTS),
        ["not a complete checkpoint", "no config.json", "Give the one that does"],
    ),
    "an adapter": (
        lambda f: only(f, adapter_config={"peft_type": "LORA", "base_model_name_or_path": "a/b"}),
        ["holds an adapter", "merge"],
    ),
    "a text model": (
        lambda f: config(f, model_type="llama", architectures=["LlamaForCausalLM"]),
        ["model type 'llama' is not an image-text-to-text model", "llava-hf"],
    ),
    "the authors' LLaVA": (
        lambda f: only(f, WEIGHTS, config={"model_type": "llava_llama", **ORIGINAL_LLAVA}),
        ["LLaVA as its authors' own code reads it", "llava-hf"],
    ),
    "the authors' first LLaVA": (
        lambda f: only(f, WEIGHTS, config={"model_type": "llava", **ORIGINAL_LLAVA}),
        ["LLaVA as its authors' own code reads it", "llava-hf"],
    ),
    "code of its own": (
        lambda f: config(f, model_type="own", auto_map={"AutoConfig": "own.Config"}),
        ["custom code", "trust_remote_code=true"],
    ),
}


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_a_damaged_checkpoint_is_named_with_the_file(tmp_path: Path, case: str) -> None:
    damage, words = CHECKPOINTS[case]
    folder = checkpoint(tmp_path / "damaged")
    damage(folder)
    said = refusal(lambda: load(str(folder)))
    assert said.startswith(f"pretrained={folder}: ")
    assert [word for word in words if word not in said] == []


def second_shard_too(folder: Path) -> None:
    first_shard_of_two(folder)
    first = set(load_file(folder / "model-00001-of-00002.safetensors"))
    (folder / WEIGHTS).write_bytes((DEMO_MODEL / WEIGHTS).read_bytes())
    weights(folder, lambda name: name not in first)
    (folder / WEIGHTS).rename(folder / "model-00002-of-00002.safetensors")


@pytest.mark.parametrize("store", [pickled, second_shard_too])
def test_a_whole_checkpoint_is_loaded(tmp_path: Path, store: Callable[[Path], object]) -> None:
    folder = checkpoint(tmp_path / "whole")
    store(folder)
    assert not (folder / WEIGHTS).exists()
    model, demo = load(str(folder))[0], load("demo")[0]
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), demo.parameters(), strict=True))


@pytest.mark.parametrize(
    ("pretrained", "words"),
    [
        ("/nowhere/llava", ["no such folder", "OWNER/NAME"]),
        ("./llava", ["no such folder", "OWNER/NAME"]),
        ("~/llava", ["no such folder", "~ is not expanded"]),
        ("checkpoints/llava/last", ["no such folder", "OWNER/NAME"]),
        (str(DEMO_MODEL / "config.json"), ["a file", "give the folder"]),
        ("llava-hf/llava-1.5-7b-hff", ["not a local folder, and", "pretrained=/path/to", "pretrained=demo"]),
        ("llava 1.5/7b", ["not a local folder, and", "pretrained=/path/to", "pretrained=demo"]),
        (15, ["a name on the hub or a folder", "./"]),
        (True, ["a name on the hub or a folder", "./"]),
    ],
)
def test_a_checkpoint_that_is_not_there(pretrained: Any, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    said = refusal(lambda: load(pretrained))
    assert said.startswith(f"pretrained={pretrained}: ")
    assert [word for word in words if word not in said] == []
