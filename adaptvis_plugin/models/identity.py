"""What a stored answer depends on besides the settings: the checkpoint and the code."""

import hashlib
from collections.abc import Sequence

from adaptvis_plugin.fingerprints import fingerprint
from adaptvis_plugin.models.checkpoint import local_folder
from adaptvis_plugin.paths import PACKAGE

_DECIDING = (
    "decoding", "models", "images.py", "data/questions.py", "lmms_eval/answering.py", "lmms_eval/models.py",
    "lmms_eval/requests.py", "vlmevalkit/model.py",
)  # fmt: skip


def checkpoint_identity(pretrained: str) -> str | None:
    """Return a fingerprint of the names, sizes and times of a checkpoint folder's files; None for a name on the hub.

    Raises:
        OSError: See `local_folder`.
    """
    folder = local_folder(pretrained)
    if folder is None:
        return None
    return fingerprint(sorted(path for path in folder.rglob("*") if path.is_file()))


def code_identity(more: Sequence[str] = ()) -> str:
    """Return a digest of the code that decides an answer: in a clone the code changes and the version does not.

    Args:
        more: Files and folders of the package that decide it too.
    """
    files = [
        path for part in (*_DECIDING, *more) for path in sorted((PACKAGE / part).rglob("*.py")) or [PACKAGE / part]
    ]
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()[:16]
