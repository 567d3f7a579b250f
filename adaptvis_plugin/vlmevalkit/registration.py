"""Puts the models and data sets in place in VLMEvalKit, which has no plugin hook."""

import functools
import importlib
import importlib.metadata
import importlib.util
import inspect
import os
import pkgutil
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from adaptvis_plugin.vlmevalkit.names import model_names

CHECKOUT = "VLMEVALKIT_ROOT"
"""Environment variable with the folder of a source checkout of VLMEvalKit, to use in place of an installed one."""

MODEL_CLASS = "SteeredVLM"
DATA_CLASSES = ("WhatsUpDataset", "VSRDataset")

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
_NEEDED_TO_RUN = ("vlmeval.run:main", "vlmeval.run:parse_args", "vlmeval.run:upsert_dataset_status")
_INFER_ARGUMENTS = {"model", "model_name", "work_dir", "dataset", "out_file"}


class FrameworkError(RuntimeError):
    """VLMEvalKit is absent, broken or of a version without what is needed; the text says which and the way out."""


@dataclass(frozen=True)
class Framework:
    """The VLMEvalKit that was found."""

    version: str
    folder: Path

    def __str__(self) -> str:
        return f"VLMEvalKit {self.version} ({self.folder})"


def register() -> Framework:
    """Add this plugin's models and data sets to VLMEvalKit; once is enough, again does nothing.

    **Changes VLMEvalKit in this process**: its registries of models and data sets grow, and answers of this plugin's
    models (only those) are collected by `adaptvis_plugin.vlmevalkit.inference`, which keeps confidence and alpha.

    Returns:
        The version and place of the VLMEvalKit that was found.

    Raises:
        FrameworkError: if there is none, it cannot be imported, or it lacks what is needed.
    """
    framework = _find()
    _require(framework, _NEEDED)
    import vlmeval.config
    import vlmeval.dataset
    import vlmeval.inference
    import vlmeval.vlm

    lacking = _INFER_ARGUMENTS - set(inspect.signature(vlmeval.inference.infer_data).parameters)
    if lacking:
        raise FrameworkError(f"{framework}: infer_data takes no {', '.join(sorted(lacking))}; use ms-vlmeval 0.0.20")

    from adaptvis_plugin.vlmevalkit import datasets, inference
    from adaptvis_plugin.vlmevalkit.model import SteeredVLM

    setattr(vlmeval.vlm, MODEL_CLASS, SteeredVLM)
    for name, arguments in model_names().items():
        present = vlmeval.config.supported_VLM.setdefault(name, functools.partial(SteeredVLM, **arguments))
        if getattr(present, "func", None) is not SteeredVLM:
            raise FrameworkError(f"{framework} has another model of the name {name}")
    for class_name in DATA_CLASSES:
        found = getattr(datasets, class_name)
        if getattr(vlmeval.dataset, class_name, found) is not found:
            raise FrameworkError(f"{framework} has another data set class of the name {class_name}")
        setattr(vlmeval.dataset, class_name, found)
        # The framework's modules share these lists, so they are extended and never replaced.
        for registry in (vlmeval.dataset.IMAGE_DATASET, vlmeval.dataset.DATASET_CLASSES):
            if found not in registry:
                registry.append(found)
        names = vlmeval.dataset.SUPPORTED_DATASETS
        names.extend(name for name in found.supported_datasets() if name not in names)
    if not hasattr(vlmeval.inference.infer_data, "adaptvis"):
        vlmeval.inference.infer_data = inference.with_steered_models(vlmeval.inference.infer_data)
    return framework


def runner(framework: Framework) -> ModuleType:
    """VLMEvalKit's own runner as the module `vlmeval.run`; under another name its log would be silent.

    Raises:
        FrameworkError: if it lacks what is needed.
    """
    script = framework.folder / "run.py"
    if os.environ.get(CHECKOUT) and "vlmeval.run" not in sys.modules:
        spec = importlib.util.spec_from_file_location("vlmeval.run", script)
        assert spec is not None and spec.loader is not None
        sys.modules["vlmeval.run"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["vlmeval.run"])
    _require(framework, _NEEDED_TO_RUN)
    return sys.modules["vlmeval.run"]


def _find() -> Framework:
    checkout = os.environ.get(CHECKOUT)
    if checkout:
        root = Path(checkout).expanduser().resolve()
        if not (root / "run.py").is_file() or not (root / "vlmeval" / "__init__.py").is_file():
            raise FrameworkError(
                f"{CHECKOUT}={checkout}: not a checkout of VLMEvalKit (it has no run.py beside a folder vlmeval)"
            )
        if str(root) not in sys.path:
            sys.path.insert(0, str(root))
    spec = importlib.util.find_spec("vlmeval")
    if spec is None or not spec.submodule_search_locations:
        raise FrameworkError(
            "VLMEvalKit is not installed: pip install ms-vlmeval, or give the folder of a source "
            f"checkout as {CHECKOUT}"
        )
    package = Path(next(iter(spec.submodule_search_locations))).absolute()
    if checkout:
        if package.parent != root:
            raise FrameworkError(f"{CHECKOUT}={checkout}, but vlmeval was already imported from {package}")
        return Framework("source checkout", root)
    return Framework(_installed_version(), package)


def _installed_version() -> str:
    names = importlib.metadata.packages_distributions().get("vlmeval", [])
    return (
        ", ".join(f"{name} {importlib.metadata.version(name)}" for name in dict.fromkeys(names)) or "of unknown version"
    )


def _require(framework: Framework, needed: tuple[str, ...]) -> None:
    missing = []
    for path in needed:
        try:
            pkgutil.resolve_name(path)
        except AttributeError:
            missing.append(path.replace(":", "."))
        except ImportError as error:
            raise FrameworkError(
                f"{framework} cannot be imported: {error}. Install what it asks for; on a machine without a GPU see "
                "scripts/patch_torchvision.py"
            ) from error
    if missing:
        raise FrameworkError(f"{framework} lacks {', '.join(missing)}; known to work is ms-vlmeval 0.0.20")
