"""Where the files beside the code are: in the repository at its top, in an installed wheel inside the package."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def _folder(name: str) -> Path:
    installed = PACKAGE / name
    return installed if installed.is_dir() else PACKAGE.parent / name


TASKS = _folder("tasks")
"""lmms-eval task definitions (YAML)."""

CONFIGS = _folder("configs")
"""Presets (YAML)."""

DEMO_MODEL = PACKAGE / "models" / "demo"
"""The embedded demo model, as a checkpoint folder."""
