"""Loading a Hugging Face image-text-to-text model and its processor."""

import contextlib
from collections.abc import Iterator
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

from adaptvis_plugin.decoding.inspection import loses_softcap
from adaptvis_plugin.models.arguments import ModelArguments
from adaptvis_plugin.models.checkpoint import check_config, check_folder, check_loaded, local_folder

OPTIONS = ("dtype", "device", "device_map", "attn_implementation", "revision", "trust_remote_code")
"""The arguments that say how a checkpoint is loaded; one of them may be the cause of another package's error."""

CAUSE_LENGTH = 400
"""Characters of another package's error that are quoted."""

HUB = (
    "Without a connection use pretrained=/path/to/checkpoint for a checkpoint already on disk, or pretrained=demo for "
    "the small model that comes with this package"
)
CONFIG = "Correct it there, or download the checkpoint again"
PROCESSOR = (
    "A checkpoint holds tokenizer.json (or its tokenizer's own files), tokenizer_config.json and "
    "preprocessor_config.json or processor_config.json beside its weights; download all its files"
)


def load_model(arguments: ModelArguments) -> tuple[PreTrainedModel, ProcessorMixin]:
    """Load a model ready for evaluation, and its processor.

    Args:
        arguments: Those that say which checkpoint, and how it is loaded.

    Raises:
        ValueError: If the checkpoint is not an image-text-to-text model, or does not take an argument.
        OSError: If the checkpoint cannot be found or fetched; the message says what to do.
        ImportError: If it needs a package that is not installed.
        RuntimeError: If the device refuses it, for example because it has too little memory.
    """
    # The weights may be many gigabytes, so first the rest: can the plugin use this model at all?
    load_config(arguments)
    processor = load_processor(arguments)
    with naming(arguments, "the model cannot be loaded"):
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            source(arguments),
            dtype=arguments.dtype,
            device_map=arguments.place(),
            attn_implementation=arguments.attn_implementation,
            ignore_mismatched_sizes=True,  # `check_loaded` refuses them, and names them
            output_loading_info=True,
            revision=arguments.revision,
            trust_remote_code=arguments.trust_remote_code,
        )
    model, found = loaded
    check_loaded(arguments.pretrained, found)
    keep_softcap(model, arguments)
    return model.eval(), processor


def keep_softcap(model: PreTrainedModel, arguments: ModelArguments) -> None:
    """Let a model attend eagerly if the user chose nothing, and what transformers chose leaves its softcap out."""
    if arguments.attn_implementation is None and loses_softcap(model):
        model.set_attn_implementation("eager")


def load_config(arguments: ModelArguments) -> PreTrainedConfig:
    """Load a checkpoint's config, after every check that needs no model.

    Raises:
        ValueError: See `load_model`.
        OSError: See `load_model`.
        ImportError: See `load_model`.
    """
    origin: dict[str, Any] = {"revision": arguments.revision}
    if check_checkpoint(arguments) is None:
        with naming(arguments, "it is not a local folder, and it could not be fetched from the hub", HUB):
            config, _ = PreTrainedConfig.get_config_dict(arguments.pretrained, **origin)
        check_config(arguments.pretrained, config)
    with naming(arguments, "its config.json cannot be used", CONFIG):
        found: PreTrainedConfig = AutoConfig.from_pretrained(
            source(arguments), trust_remote_code=arguments.trust_remote_code, **origin
        )
    return found


def load_processor(arguments: ModelArguments) -> ProcessorMixin:
    """Load a checkpoint's processor, set to pad on the left.

    Raises:
        ValueError: See `load_model`.
        OSError: See `load_model`.
        ImportError: See `load_model`.
    """
    with naming(arguments, "its processor (tokenizer and image processor) cannot be loaded", PROCESSOR):
        processor: ProcessorMixin = AutoProcessor.from_pretrained(
            source(arguments), revision=arguments.revision, trust_remote_code=arguments.trust_remote_code
        )
        tokenizer = processor.tokenizer
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return processor


def source(arguments: ModelArguments) -> str:
    """Return what transformers' `from_pretrained` takes: the checkpoint's folder, or its name on the hub.

    Raises:
        OSError: See `local_folder`.
    """
    return str(local_folder(arguments.pretrained) or arguments.pretrained)


def check_checkpoint(arguments: ModelArguments) -> Path | None:
    """Check what can be known of a checkpoint without a network and without building a model.

    Returns:
        Its folder; None if it is a name on the hub.

    Raises:
        ValueError: See `load_model`.
        OSError: See `load_model`.
    """
    folder = local_folder(arguments.pretrained)
    if folder is None:
        return None
    if arguments.revision is not None:
        raise ValueError(
            f"revision={arguments.revision!r}: pretrained={arguments.pretrained} is a folder, which has no revisions; "
            "leave it out, or give the checkpoint's name on the hub"
        )
    check_folder(arguments.pretrained, folder)
    return folder


@contextlib.contextmanager
def naming(arguments: ModelArguments, problem: str, way_out: str = "") -> Iterator[None]:
    """Put the user's arguments, on one line, before another package's error."""
    try:
        yield
    except Exception as error:
        default = {name: ModelArguments.model_fields[name].default for name in OPTIONS}
        given = [name for name in OPTIONS if getattr(arguments, name) != default[name]]
        cause = " ".join(str(error).split()) or type(error).__name__
        if "trust_remote_code" in cause:
            way_out = "If you trust its code, let it run with trust_remote_code=true"
        elif isinstance(error, torch.OutOfMemoryError):
            way_out = "Give dtype=float16, or device_map=auto to use several devices"
        elif not way_out and given:
            way_out = f"Without {', '.join(given)} the default is used"
        kind = next((kind for kind in (OSError, ImportError, RuntimeError) if isinstance(error, kind)), ValueError)
        names = ", ".join(f"{name}={getattr(arguments, name)}" for name in ("pretrained", *given))
        raise kind(f"{names}: {problem} ({cause[:CAUSE_LENGTH]}). {way_out}".rstrip(". ")) from error
