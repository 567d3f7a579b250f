"""Notice that files have changed, without reading them."""

import hashlib
from collections.abc import Iterable
from pathlib import Path


def fingerprint(files: Iterable[Path]) -> str:
    """Return a hash of the files' names, sizes and times: the content has changed only if the hash has.

    Raises:
        OSError: If a file is missing.
    """
    digest = hashlib.sha256()
    for path in files:
        facts = path.stat()
        digest.update(f"{path}\0{facts.st_size}\0{facts.st_mtime_ns}\0{facts.st_ctime_ns}\n".encode())
    return digest.hexdigest()[:16]
