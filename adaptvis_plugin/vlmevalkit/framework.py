"""Finds VLMEvalKit and checks that it has what this plugin needs."""

import importlib.metadata
import importlib.util
import os
import pkgutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

CHECKOUT = "VLMEVALKIT_ROOT"
"""Environment variable with the folder of a source checkout of VLMEvalKit, to use in place of an installed one."""

KNOWN_TO_WORK = "ms-vlmeval 0.0.20"

_RUNNER = ("vlmeval.run:main", "vlmeval.run:parse_args", "vlmeval.run:upsert_dataset_status")


class FrameworkError(RuntimeError):
    """VLMEvalKit is missing, broken, or a version without what is needed; the text says which, and what to do."""


@dataclass(frozen=True)
class Framework:
    """The VLMEvalKit that was found."""

    version: str
    folder: Path

    def __str__(self) -> str:
        return f"VLMEvalKit {self.version} ({self.folder})"


def find() -> Framework:
    """Find VLMEvalKit without importing it: the source checkout, if one is given, else the installed one.

    Raises:
        FrameworkError: If there is none, or the given folder is not a checkout.
    """
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
            f"VLMEvalKit is not installed: pip install ms-vlmeval, or set {CHECKOUT} to the folder of a source checkout"
        )
    package = Path(next(iter(spec.submodule_search_locations))).absolute()
    if not checkout:
        return Framework(_installed_version(), package)
    if package.parent != root:
        raise FrameworkError(f"{CHECKOUT}={checkout}, but vlmeval was already imported from {package}")
    return Framework("source checkout", root)


def require(framework: Framework, needed: Iterable[str]) -> None:
    """Import parts of the framework.

    Args:
        framework: What `find` returned.
        needed: The parts, as ``module:name``.

    Raises:
        FrameworkError: If one cannot be imported or is missing.
    """
    missing = []
    for path in needed:
        try:
            pkgutil.resolve_name(path)
        except AttributeError:
            missing.append(path.replace(":", "."))
        except ImportError as error:
            raise FrameworkError(
                f"{framework} cannot be imported: {error}. Install what is missing; on a machine without a GPU see "
                "scripts/patch_torchvision.py"
            ) from error
    if missing:
        raise FrameworkError(f"{framework} lacks {', '.join(missing)}; {KNOWN_TO_WORK} is known to work")


def runner(framework: Framework) -> ModuleType:
    """Return VLMEvalKit's own runner as the module `vlmeval.run`; under another name its log would be silent.

    Raises:
        FrameworkError: If it lacks what is needed.
    """
    script = framework.folder / "run.py"
    if os.environ.get(CHECKOUT) and "vlmeval.run" not in sys.modules:
        spec = importlib.util.spec_from_file_location("vlmeval.run", script)
        assert spec is not None and spec.loader is not None
        sys.modules["vlmeval.run"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["vlmeval.run"])
    require(framework, _RUNNER)
    return sys.modules["vlmeval.run"]


def _installed_version() -> str:
    names = importlib.metadata.packages_distributions().get("vlmeval", [])
    return (
        ", ".join(f"{name} {importlib.metadata.version(name)}" for name in dict.fromkeys(names)) or "of unknown version"
    )
