"""Checks of a checkpoint that need no model: its folder, its files and its config."""

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import transformers
from safetensors import SafetensorError, safe_open
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
from transformers.quantizers.auto import AutoHfQuantizer

from adaptvis_plugin.paths import DEMO_MODEL

DEMO = "demo"

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")

CONVERTED = "A checkpoint in its authors' own format often has a converted one (for LLaVA: the llava-hf organisation)"


def local_folder(pretrained: str) -> Path | None:
    """Return the folder of a checkpoint, or None for a name on the hub.

    Raises:
        OSError: If it is a file, or a path that can only be a folder and does not exist.
    """
    if pretrained == DEMO:
        return DEMO_MODEL
    path = Path(pretrained)
    if path.is_dir():
        return path
    if path.exists():
        raise OSError(
            f"pretrained={pretrained}: this is a file; give the folder that holds config.json and the weights"
        )
    if path.is_absolute() or pretrained.startswith((".", "~")) or pretrained.count("/") > 1:
        raise OSError(
            f"pretrained={pretrained}: there is no such folder (in {Path.cwd()}; ~ is not expanded), and a name "
            "on the hub has the form OWNER/NAME"
        )
    return None


def check_folder(pretrained: str, folder: Path) -> None:
    """Check that a folder can be a checkpoint of a model that this plugin runs, without reading the weights.

    Raises:
        OSError: If a file is missing or cannot be read.
        ValueError: See `check_config`.
    """
    if not (folder / "config.json").is_file():
        adapter = (folder / "adapter_config.json").is_file()
        way_out = (
            "It holds an adapter: merge that into its model, and save the model"
            if adapter
            else "Give the one that does"
        )
        raise OSError(
            f"pretrained={pretrained}: the folder is not a complete checkpoint (it holds no config.json). {way_out}"
        )
    files = [file for pattern in ("*config.json", "tokenizer.json", "*.index.json") for file in folder.glob(pattern)]
    content = {file.name: _json(pretrained, file) for file in files}
    config = content["config.json"]
    check_config(pretrained, config)
    there = [name for name in (config.get("transformers_weights"), *WEIGHTS) if name and (folder / name).is_file()]
    if not there:
        raise OSError(
            f"pretrained={pretrained}: the folder is not a complete checkpoint (it holds no weights, as "
            f"{' or '.join(WEIGHTS)}). Download them too"
        )
    _check_weights(pretrained, folder, there[0], content.get(there[0]))  # the first is the one that transformers takes


def _check_weights(pretrained: str, folder: Path, name: str, index: Any) -> None:
    try:
        names = {name} if index is None else set(index["weight_map"].values())
    except (KeyError, TypeError, AttributeError) as error:
        raise _broken(pretrained, name, error) from error
    missing = sorted(name for name in names if not (folder / name).is_file())
    if missing:
        raise OSError(
            f"pretrained={pretrained}: the folder is not a complete checkpoint ({len(missing)} of its {len(names)} "
            f"files of weights are missing: {_some(missing)}). Download them too"
        )
    for name in sorted(names):
        try:
            _check_whole(folder / name)
        except (SafetensorError, ValueError) as error:
            raise _broken(pretrained, name, error) from error


def _check_whole(file: Path) -> None:
    """Check by its header, without reading the weights, that this is a complete file of weights."""
    if file.suffix == ".safetensors":
        with safe_open(file, framework="pt"):
            return
    with file.open("rb") as opened:
        pickled = opened.read(1) == b"\x80"  # torch's format before its archives
    if not pickled and not zipfile.is_zipfile(file):
        raise ValueError("neither a torch archive nor a pickle")


def check_config(pretrained: str, config: Any) -> None:
    """Check by a checkpoint's config.json that it is a model that this plugin runs.

    Raises:
        ValueError: If it is not.
    """
    kind = config.get("model_type") if isinstance(config, dict) else None
    if not isinstance(config, dict) or not isinstance(kind, str):
        raise ValueError(f"pretrained={pretrained}: its config.json names no model_type of transformers. {CONVERTED}")
    if "mm_vision_tower" in config:
        raise ValueError(f"pretrained={pretrained}: this is LLaVA as its authors' own code reads it. {CONVERTED}")
    if not _can_unpack(config.get("quantization_config")):
        raise ValueError(
            f"pretrained={pretrained}: transformers {transformers.__version__} does not know how its weights are "
            "quantised (quantization_config in config.json); use another checkpoint of the model"
        )
    if "auto_map" in config or kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return
    if kind in CONFIG_MAPPING:
        raise ValueError(
            f"pretrained={pretrained}: model type {kind!r} is not an image-text-to-text model of transformers. "
            f"{CONVERTED}"
        )
    raise ValueError(
        f"pretrained={pretrained}: model type {kind!r} is unknown to transformers {transformers.__version__}; a newer "
        f"one may know it. {CONVERTED}"
    )


def check_loaded(pretrained: str, found: Mapping[str, Any]) -> None:
    """Check that every weight of a model came from its checkpoint.

    Args:
        pretrained: The checkpoint.
        found: What `from_pretrained` returns with `output_loading_info`.

    Raises:
        ValueError: If one did not. transformers would fill it with random numbers and carry on.
    """
    shapes = [f"{name} is {list(stored)} and not {list(built)}" for name, stored, built in found["mismatched_keys"]]
    missing = [f"{name} is missing" for name in found["missing_keys"]]
    if wrong := sorted(missing) + sorted(shapes):
        raise ValueError(
            f"pretrained={pretrained}: {len(wrong)} of its weights do not fit its config.json, and would be random "
            f"numbers ({_some(wrong)}). They come from different models, or the download is incomplete"
        )


def _can_unpack(quantisation: Any) -> bool:
    if quantisation is None:
        return True
    try:
        return bool(AutoHfQuantizer.supports_quant_method(quantisation))
    except (AttributeError, ValueError):  # not a mapping, or no method in it
        return False


def _json(pretrained: str, file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _broken(pretrained, file.name, error) from error


def _broken(pretrained: str, name: str, error: Exception) -> OSError:
    return OSError(
        f"pretrained={pretrained}: {name} is not readable ({error}). It may be half downloaded, or a Git LFS "
        "pointer in place of the file; download it again"
    )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
