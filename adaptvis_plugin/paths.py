"""The files beside the code: at the top of the repository, or inside the package of an installed wheel."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def _folder(name: str) -> Path:
    installed = PACKAGE / name
    return installed if installed.is_dir() else PACKAGE.parent / name


TASK_FOLDER = _folder("tasks")
"""The lmms-eval tasks (YAML)."""

PRESET_FOLDER = _folder("configs")
"""The presets (YAML)."""

DEMO_MODEL = PACKAGE / "models" / "demo"
"""The embedded demo model, as a checkpoint folder."""
