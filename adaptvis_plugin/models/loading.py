"""Loading a Hugging Face image-text-to-text model and its processor, by hub name, folder, or `demo`."""

import contextlib
from collections.abc import Iterator
from dataclasses import fields
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

from adaptvis_plugin.models.checkpoint import check_config, check_folder, check_loaded, local_folder
from adaptvis_plugin.models.options import Loading, check_text

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


def load_model(pretrained: str, **options: Any) -> tuple[PreTrainedModel, ProcessorMixin]:
    """Load a model ready for evaluation, and its processor, set to pad on the left and never to truncate.

    Args:
        pretrained: a name on the hub, a folder, or `demo` for the model that comes with this package.
        **options: see `Loading`.

    Raises:
        ValueError: if an argument is unusable or the checkpoint is not an image-text-to-text model.
        OSError: if the checkpoint cannot be found or fetched; the message names the ways out.
        ImportError: if it needs a package that is not installed.
        RuntimeError: if the device refuses it, for want of memory for example.
    """
    loading = Loading(**options)
    folder = check_pretrained(pretrained, loading)
    source = str(folder or pretrained)
    origin: dict[str, Any] = {"revision": loading.revision}
    # Before the weights, which may be many gigabytes, the rest: is this a model the plugin can use at all?
    if folder is None:
        with _naming(pretrained, loading, "it is neither a local folder nor could it be fetched from the hub", HUB):
            config, _ = PreTrainedConfig.get_config_dict(source, **origin)
        check_config(pretrained, config)
    origin["trust_remote_code"] = loading.trust_remote_code
    with _naming(pretrained, loading, "its config.json cannot be used", CONFIG):
        AutoConfig.from_pretrained(source, **origin)
    with _naming(pretrained, loading, "its processor (tokenizer and image processor) cannot be loaded", PROCESSOR):
        processor = AutoProcessor.from_pretrained(source, **origin)
        tokenizer = processor.tokenizer
    with _naming(pretrained, loading, "the model cannot be loaded"):
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            source,
            dtype=loading.dtype,
            device_map=loading.place(),
            attn_implementation=loading.attn_implementation,
            ignore_mismatched_sizes=True,  # `check_loaded` refuses them, and names them
            output_loading_info=True,
            **origin,
        )
    model, found = loaded
    check_loaded(pretrained, found)
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model.eval(), processor


def check_pretrained(pretrained: str, loading: Loading) -> Path | None:
    """Check what can be known of a checkpoint without a network and without building a model.

    Returns:
        Its folder; None if it is a name on the hub.

    Raises:
        ValueError, OSError: as `load_model`.
    """
    check_text("pretrained", pretrained, "a name on the hub or a folder; ./ before a folder's name that is a number")
    folder = local_folder(pretrained)
    if folder is None:
        return None
    if loading.revision is not None:
        raise ValueError(
            f"revision={loading.revision!r}: pretrained={pretrained} is a folder, which has no revisions; leave it "
            "out, or give the checkpoint's name on the hub"
        )
    check_folder(pretrained, folder)
    return folder


@contextlib.contextmanager
def _naming(pretrained: str, loading: Loading, problem: str, way_out: str = "") -> Iterator[None]:
    """Puts the user's arguments, on one line, before what another package has to say about them."""
    try:
        yield
    except Exception as error:
        options = {field.name: getattr(loading, field.name) for field in fields(Loading)}
        given = [field.name for field in fields(Loading) if options[field.name] != field.default]
        cause = " ".join(str(error).split()) or type(error).__name__
        if "trust_remote_code" in cause:
            way_out = "If you trust its code, let it run with trust_remote_code=true"
        elif isinstance(error, torch.OutOfMemoryError):
            way_out = "Give dtype=float16, or device_map=auto to use several devices"
        elif not way_out and given:
            way_out = f"Without {', '.join(given)} the default is used"
        kind = next((kind for kind in (OSError, ImportError, RuntimeError) if isinstance(error, kind)), ValueError)
        names = ", ".join([f"pretrained={pretrained}", *(f"{name}={options[name]}" for name in given)])
        raise kind(f"{names}: {problem} ({cause[:CAUSE_LENGTH]}). {way_out}".rstrip(". ")) from error
