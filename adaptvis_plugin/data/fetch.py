"""Fetching: resumed, retried, bounded in size, checked.

gdown fetches files, from Google Drive and elsewhere; huggingface_hub what is on the Hub.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextvars import ContextVar
from pathlib import Path

from adaptvis_plugin.data.cache import NO_ROOM, DataError, cache_dir

log = logging.getLogger(__name__)

MAX_FILE = 40 * 2**30
MAX_IMAGE = 64 * 2**20
_RETRIES = 3
_TIMEOUT = 30
_THREADS = 16

progress: ContextVar[Callable[[str, int, int | None], None] | None] = ContextVar("progress", default=None)
"""Told of everything that is fetched: what, how much of it, and of how much."""


class Unavailable(DataError):
    """A source that cannot be reached now; another may do."""


def downloads() -> Path:
    """Where files lie until a table is made of them."""
    folder = cache_dir() / "downloads"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def sha256(path: Path) -> str:
    """The SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def verify(path: Path, expected: str | None, came_from: str, *, remove: bool = False) -> None:
    """Holds a file against its SHA-256.

    Args:
        path: The file.
        expected: Its SHA-256; None checks nothing.
        came_from: The source, for the message.
        remove: Delete a wrong file, so that the next try fetches it again.

    Raises:
        DataError: It is another file.
    """
    if expected is None or (actual := sha256(path)) == expected:
        return
    with path.open("rb") as file:
        head = file.read(64).lstrip().lower()
    kind = "an HTML page, perhaps a quota or log-in page" if head.startswith(b"<") else "a different file"
    if remove:
        path.unlink()
    raise DataError(
        f"{path.name} from {came_from} is {kind}: its SHA-256 is {actual}, not {expected}. Fetch it again later, or "
        "get it by hand and use --from FOLDER."
    )


def fetch(url: str, path: Path, expected: str | None = None, limit: int = MAX_FILE, *, quiet: bool = False) -> Path:
    """Downloads a file, or goes on with a download that was broken off.

    Args:
        url: Its address; Google Drive's are understood.
        path: Where it goes. It appears there only when it is whole.
        expected: Its SHA-256.
        limit: The most bytes to accept.
        quiet: Do not tell `progress`.

    Raises:
        Unavailable: It cannot be had now. What came is kept, and the next call goes on from there.
        DataError: It is larger than the limit, or another file than expected.
    """
    import gdown
    import requests

    tell = None if quiet else progress.get()

    def bounded(done: int, total: int | None) -> None:
        if max(done, total or 0) > limit:
            raise DataError(f"{url} sends {max(done, total or 0):,} bytes; more than {limit:,} are refused.")
        if tell:
            tell(path.name, done, total)

    for attempt in range(0 if path.exists() else _RETRIES):
        try:
            gdown.download(
                url, str(path), quiet=True, use_cookies=False, resume=True, retries=_RETRIES, timeout=_TIMEOUT,
                progress=bounded,
            )  # fmt: skip
            break
        except (gdown.exceptions.DownloadError, requests.RequestException) as error:
            response = getattr(error, "response", None)
            busy = response is not None and (response.status_code == 429 or response.status_code >= 500)
            if busy and attempt < _RETRIES - 1:
                time.sleep(2**attempt)
                continue
            raise Unavailable(f"{url} cannot be fetched: {' '.join(str(error).split())}") from error
        except DataError:
            for part in path.parent.glob(f"{path.name}*.part"):
                part.unlink()
            raise
    verify(path, expected, url, remove=True)
    return path


def fetch_images(wanted: Iterable[tuple[str, Path]], check: Callable[[bytes, str], None]) -> None:
    """Downloads many small images side by side; those that are there already are not asked for again.

    Args:
        wanted: Addresses and where they go.
        check: Called with the bytes and the name; raises `DataError` for a damaged image.

    Raises:
        Unavailable: One cannot be had now; the others are kept.
        DataError: One is damaged or too large.
    """
    missing = [(url, path) for url, path in wanted if not path.exists()]

    def one(url: str, path: Path) -> None:
        fetch(url, path, limit=MAX_IMAGE, quiet=True)
        try:
            check(path.read_bytes(), url)
        except DataError:
            path.unlink()
            raise

    tell = progress.get()
    with ThreadPoolExecutor(_THREADS) as pool:
        running = [pool.submit(one, url, path) for url, path in missing]
        try:
            for done, future in enumerate(as_completed(running), start=1):
                future.result()
                if tell:
                    tell("images", done, len(missing))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def hub_files(repo: str, choose: Callable[[str], bool]) -> list[Path]:
    """Downloads the files of a Hub data set whose names are chosen, in the order of their names.

    They go to `downloads`, not to the Hub's cache, so that the pictures do not lie on the disk twice.

    Raises:
        Unavailable: The Hub cannot be reached or does not have them.
    """
    from huggingface_hub import HfApi, hf_hub_download

    endpoint = os.environ.get("HF_ENDPOINT")
    folder = downloads() / repo.replace("/", "--")
    try:
        names = sorted(filter(choose, HfApi(endpoint).list_repo_files(repo, repo_type="dataset")))
        if not names:
            raise Unavailable(f"The Hub data set {repo} has no such file.")
        return [
            Path(hf_hub_download(repo, name, repo_type="dataset", local_dir=folder, endpoint=endpoint))
            for name in names
        ]
    except DataError:
        raise
    except Exception as error:  # the client's network errors have no common base, and differ by its version
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            raise
        raise Unavailable(f"The Hub data set {repo} cannot be reached: {' '.join(str(error).split())}") from error


def tidy(names: Iterable[str]) -> None:
    """Deletes downloads, by names in `downloads`; what is not there is no matter."""
    for name in names:
        path = downloads() / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
