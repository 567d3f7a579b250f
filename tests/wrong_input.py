"""Damaged checkpoints, and what an error has to be."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from adaptvis_plugin.models.arguments import ModelArguments
from adaptvis_plugin.models.loading import load_model
from adaptvis_plugin.paths import DEMO_MODEL

WEIGHTS = "model.safetensors"


def refusal(call: Callable[[], object]) -> str:
    """The error of a call; lmms-eval's log shows its first line."""
    with pytest.raises((ValueError, OSError, ImportError, RuntimeError)) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def load(pretrained: Any, **options: Any) -> Any:
    """A model and its processor."""
    return load_model(ModelArguments(method="baseline", pretrained=pretrained, **options))


def checkpoint(folder: Path) -> Path:
    """The demo model's folder, to be damaged."""
    folder.mkdir()
    for file in DEMO_MODEL.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def config(folder: Path, **changes: Any) -> None:
    """Change values of the config; None removes one."""
    file = folder / "config.json"
    changed = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({name: value for name, value in changed.items() if value is not None}))


def text_config(folder: Path, **changes: Any) -> None:
    config(folder, text_config={**json.loads((folder / "config.json").read_text())["text_config"], **changes})


def only(folder: Path, *names: str, **contents: Any) -> None:
    """Leave nothing but these files, and write config.json."""
    for file in folder.iterdir():
        if file.name not in names:
            file.unlink()
    for name, content in contents.items():
        (folder / f"{name}.json").write_text(json.dumps(content))


def weights(folder: Path, keep: Callable[[str], bool]) -> None:
    tensors = load_file(folder / WEIGHTS)
    save_file({name: tensor for name, tensor in tensors.items() if keep(name)}, folder / WEIGHTS, {"format": "pt"})


def pickled(folder: Path) -> Path:
    """The weights as torch.save writes them."""
    if (folder / WEIGHTS).exists():
        torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
        (folder / WEIGHTS).unlink()
    return folder / "pytorch_model.bin"


def first_shard_of_two(folder: Path, index: str | None = None) -> None:
    names = sorted(load_file(folder / WEIGHTS))
    weights(folder, lambda name: name in names[:50])
    (folder / WEIGHTS).rename(folder / "model-00001-of-00002.safetensors")
    shard = {name: f"model-0000{1 if name in names[:50] else 2}-of-00002.safetensors" for name in names}
    content = json.dumps({"metadata": {}, "weight_map": shard}) if index is None else index
    (folder / f"{WEIGHTS}.index.json").write_text(content)
