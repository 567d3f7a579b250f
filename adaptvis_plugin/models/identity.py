"""What a stored answer was made with, beside the settings: another checkpoint or other code may answer otherwise."""

import hashlib

from adaptvis_plugin.models.checkpoint import local_folder
from adaptvis_plugin.paths import PACKAGE

_DECIDING = (
    "decoding", "models", "images.py", "data/questions.py", "lmms_eval/models.py", "vlmevalkit/model.py",
)  # fmt: skip


def checkpoint_identity(pretrained: str) -> str | None:
    """What lies in a checkpoint folder, by the names, sizes and times of its files; None for a name on the hub.

    Raises:
        OSError: see `local_folder`.
    """
    folder = local_folder(pretrained)
    if folder is None:
        return None
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    stats = [(path.relative_to(folder).as_posix(), path.stat()) for path in files]
    return _digest("\n".join(f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in stats).encode())


def code_identity() -> str:
    """The code of this package that decides an answer: its version does not change with every change of a clone."""
    files = [path for part in _DECIDING for path in sorted((PACKAGE / part).rglob("*.py")) or [PACKAGE / part]]
    return _digest(b"\0".join(path.read_bytes() for path in files))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
