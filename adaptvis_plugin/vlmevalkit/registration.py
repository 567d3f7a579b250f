"""Adds the models and data sets to VLMEvalKit, which has no plugin hook."""

import functools
import inspect

from adaptvis_plugin.vlmevalkit.framework import KNOWN_TO_WORK, Framework, FrameworkError, find, require
from adaptvis_plugin.vlmevalkit.names import registered_models

_NEEDED = (
    "vlmeval.config:supported_VLM",
    "vlmeval.vlm:BaseModel",
    "vlmeval.dataset:IMAGE_DATASET",
    "vlmeval.dataset:DATASET_CLASSES",
    "vlmeval.dataset:SUPPORTED_DATASETS",
    "vlmeval.dataset.image_base:ImageBaseDataset",
    "vlmeval.inference:infer_data",
    "vlmeval.smp:dump",
    "vlmeval.smp:get_rank_and_world_size",
)
_INFER_ARGUMENTS = {"model", "model_name", "work_dir", "dataset", "out_file"}


def register() -> Framework:
    """Add this plugin's models and data sets to VLMEvalKit. Once is enough; a second call does nothing.

    **Changes VLMEvalKit in this process**: its registries of models and data sets grow, and answers of this plugin's
    models (only those) are collected by `adaptvis_plugin.vlmevalkit.inference`, which keeps confidence and alpha.

    Returns:
        The version and place of the VLMEvalKit that was found.

    Raises:
        FrameworkError: If there is none, it cannot be imported, or it lacks what is needed.
    """
    framework = find()
    require(framework, _NEEDED)
    import vlmeval.config
    import vlmeval.dataset
    import vlmeval.inference
    import vlmeval.vlm

    lacking = _INFER_ARGUMENTS - set(inspect.signature(vlmeval.inference.infer_data).parameters)
    if lacking:
        raise FrameworkError(f"{framework}: infer_data takes no {', '.join(sorted(lacking))}; use {KNOWN_TO_WORK}")

    from adaptvis_plugin.vlmevalkit.datasets import CLASSES
    from adaptvis_plugin.vlmevalkit.inference import with_steered_models
    from adaptvis_plugin.vlmevalkit.model import SteeredVLM

    setattr(vlmeval.vlm, SteeredVLM.__name__, SteeredVLM)
    for name, arguments in registered_models().items():
        present = vlmeval.config.supported_VLM.setdefault(name, functools.partial(SteeredVLM, **arguments))
        if getattr(present, "func", None) is not SteeredVLM:
            raise FrameworkError(f"{framework} has another model named {name}")
    for found in CLASSES:
        if getattr(vlmeval.dataset, found.__name__, found) is not found:
            raise FrameworkError(f"{framework} has another data set class named {found.__name__}")
        setattr(vlmeval.dataset, found.__name__, found)
        # The framework's modules share these lists, so they are extended and never replaced.
        for registry in (vlmeval.dataset.IMAGE_DATASET, vlmeval.dataset.DATASET_CLASSES):
            if found not in registry:
                registry.append(found)
        names = vlmeval.dataset.SUPPORTED_DATASETS
        names.extend(name for name in found.supported_datasets() if name not in names)
    if not hasattr(vlmeval.inference.infer_data, "adaptvis"):
        vlmeval.inference.infer_data = with_steered_models(vlmeval.inference.infer_data)
    return framework
