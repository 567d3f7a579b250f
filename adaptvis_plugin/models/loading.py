"""Loading a Hugging Face image-text-to-text model and its processor, by hub name, folder, or `demo`."""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

from adaptvis_plugin.paths import DEMO_MODEL

DEMO = "demo"


def load_model(
    pretrained: str,
    *,
    dtype: str = "auto",
    device: str | None = None,
    device_map: str | None = None,
    attn_implementation: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> tuple[PreTrainedModel, ProcessorMixin]:
    """Load a model ready for evaluation, and its processor, set to pad on the left and never to truncate.

    Args:
        pretrained: a name on the hub, a folder, or `demo` for the model that comes with this package.
        dtype: `auto` (the checkpoint's) or the name of a torch dtype.
        device: where the model goes; by default the first GPU, else the CPU. Not together with `device_map`.
        device_map: `auto` and the like: accelerate spreads the layers over the devices.
        attn_implementation: kernel of the ordinary passes; by default transformers chooses.
        revision: branch, tag or commit on the hub.
        trust_remote_code: whether to run code from the checkpoint.

    Raises:
        ValueError: if an argument is unusable or the checkpoint is not an image-text-to-text model.
        OSError: if the checkpoint cannot be found or fetched; the message names the ways out.
    """
    if dtype != "auto" and not isinstance(getattr(torch, dtype, None), torch.dtype):
        raise ValueError(f"dtype={dtype!r}: give auto, float32, bfloat16, float16 or another torch dtype")
    if device is not None and device_map is not None:
        raise ValueError(f"device={device!r} and device_map={device_map!r} both say where the model goes; give one")
    if device is None and device_map is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device is not None and device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device={device!r}: torch sees no CUDA device here; use device=cpu")
    source = str(DEMO_MODEL) if pretrained == DEMO else pretrained
    if Path(source).is_dir() and not (Path(source) / "config.json").is_file():
        raise OSError(f"{pretrained}: the folder is not a complete checkpoint (it holds no config.json)")
    origin: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    try:
        # Before the weights, which may be many gigabytes, the config: is this a model the plugin can use at all?
        config = AutoConfig.from_pretrained(source, **origin)
        _check_architecture(pretrained, config)
        processor = AutoProcessor.from_pretrained(source, **origin)
        model = AutoModelForImageTextToText.from_pretrained(
            source,
            dtype=dtype,
            # Also for a single device: a quantised model cannot be moved once it is loaded.
            device_map=device_map or {"": device},
            attn_implementation=attn_implementation,
            **origin,
        )
    except OSError as error:
        if Path(source).is_dir():
            raise OSError(f"{pretrained}: the folder is not a complete checkpoint ({_first_line(error)})") from error
        raise OSError(
            f"{pretrained!r} is neither a local folder nor could it be fetched from the hub ({_first_line(error)}). "
            "Without a connection use pretrained=/path/to/checkpoint for a checkpoint already on disk, or "
            "pretrained=demo for the small model that comes with this package"
        ) from error
    tokenizer = processor.tokenizer
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model.eval(), processor


def _check_architecture(pretrained: str, config: PreTrainedConfig) -> None:
    custom = hasattr(config, "auto_map")
    if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING and not custom:
        raise ValueError(
            f"{pretrained}: model type {config.model_type!r} is not an image-text-to-text model of transformers. "
            "Checkpoints in their authors' own format often have a converted one (for LLaVA: the llava-hf organisation)"
        )


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
