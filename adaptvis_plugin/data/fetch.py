"""Fetching: resumed, retried, bounded in size, checked.

gdown fetches files, from Google Drive and elsewhere; huggingface_hub what is on the Hub.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from urllib.parse import urlsplit

from adaptvis_plugin.data.cache import DOWNLOADS, NO_ROOM, DataError, cache_dir
from adaptvis_plugin.data.files import is_html, sha256

log = logging.getLogger(__name__)

MAX_FILE = 40 * 2**30
MAX_IMAGE = 64 * 2**20
_RETRIES = 3
_TIMEOUT = 30
_THREADS = 16

progress: ContextVar[Callable[[str, int, int | None], None] | None] = ContextVar("progress", default=None)
"""Told of everything that is fetched: what, how much of it, and of how much."""


_silent: ContextVar[dict[str, str] | None] = ContextVar("silent", default=None)
_UNREACHABLE = (errno.ECONNREFUSED, errno.ETIMEDOUT, errno.ENETUNREACH, errno.EHOSTUNREACH)


class Unavailable(DataError):
    """A source that cannot be reached now; another may do."""


@contextmanager
def one_wait() -> Iterator[None]:
    """Within it, a host that could not be reached is not asked again: it took half a minute to find that out."""
    token = _silent.set({})
    try:
        yield
    finally:
        _silent.reset(token)


@contextmanager
def _asking(url: str) -> Iterator[None]:
    host, silent = urlsplit(url).netloc, _silent.get()
    if silent is not None and host in silent:
        raise Unavailable(f"{url} is not asked for, since {host} could not be reached just now ({silent[host]}).")
    try:
        yield
    except Exception as error:
        if silent is not None and (cause := _unreachable(error)):
            silent[host] = str(cause) or type(cause).__name__
        raise


def _unreachable(error: BaseException | None) -> BaseException | None:
    """The failure to connect from which an HTTP client's error came, if it did: each client wraps it in its own."""
    while error is not None:
        if isinstance(error, (socket.gaierror, TimeoutError)) or getattr(error, "errno", None) in _UNREACHABLE:
            return error
        error = error.__cause__ or error.__context__
    return None


def downloads() -> Path:
    """Where files lie until a table is made of them."""
    folder = cache_dir() / DOWNLOADS
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def verify(path: Path, expected: str, came_from: str, way_out: str) -> None:
    """Holds a file against its SHA-256.

    Args:
        path: The file.
        expected: Its SHA-256.
        came_from: The source, for the message.
        way_out: What to do about another file, for the message.

    Raises:
        DataError: It is another file.
    """
    if (actual := sha256(path)) == expected:
        return
    kind = "an HTML page, perhaps a quota or log-in page" if is_html(path) else "a different file"
    raise DataError(f"{path.name} from {came_from} is {kind}: its SHA-256 is {actual}, not {expected}. {way_out}")


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
            with _asking(url):
                gdown.download(
                    url, str(path), quiet=True, use_cookies=False, resume=True, retries=_RETRIES, timeout=_TIMEOUT,
                    progress=bounded,
                )  # fmt: skip
            break
        except Unavailable:
            raise
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
    if expected is not None:
        try:
            verify(path, expected, url, "Fetch it again later, or get it by hand and use --from FOLDER.")
        except DataError:
            path.unlink()
            raise
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
    from huggingface_hub import HfApi

    folder = downloads() / hub_folder(repo)
    hub = HfApi(os.environ.get("HF_ENDPOINT"))
    try:
        with _asking(f"{hub.endpoint}/datasets/{repo}"):
            names = sorted(filter(choose, hub.list_repo_files(repo, repo_type="dataset")))
            if not names:
                raise Unavailable(f"The Hub data set {repo} has no such file.")
            return [Path(hub.hf_hub_download(repo, name, repo_type="dataset", local_dir=folder)) for name in names]
    except DataError:
        raise
    except Exception as error:  # the client's network errors have no common base, and differ by its version
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            raise
        raise Unavailable(f"The Hub data set {repo} cannot be reached: {' '.join(str(error).split())}") from error


def hub_folder(repo: str) -> str:
    """The name in `downloads` under which the files of a Hub data set lie."""
    return repo.replace("/", "--")


def tidy(names: Iterable[str]) -> None:
    """Deletes downloads, by names in `downloads`; what is not there is no matter."""
    for name in names:
        path = downloads() / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
