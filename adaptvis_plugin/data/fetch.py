"""Downloads that resume, retry, limit the size, and check the content.

gdown fetches files from Google Drive and elsewhere; huggingface_hub fetches files from the Hub.
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
"""Called during every download with its name, the bytes (or files) received, and the total if it is known."""

_unreachable_hosts: ContextVar[dict[str, str] | None] = ContextVar("unreachable_hosts", default=None)
_UNREACHABLE = (errno.ECONNREFUSED, errno.ETIMEDOUT, errno.ENETUNREACH, errno.EHOSTUNREACH)


class Unavailable(DataError):
    """A source cannot be reached now; another one may be."""


class NoSourceAvailable(Unavailable):
    """The data cannot be had from any source now."""


@contextmanager
def unreachable_hosts_remembered() -> Iterator[None]:
    """Ask no unreachable host a second time within this context, because each attempt takes half a minute."""
    token = _unreachable_hosts.set({})
    try:
        yield
    finally:
        _unreachable_hosts.reset(token)


@contextmanager
def _request(url: str) -> Iterator[None]:
    """Refuse a request to a host that was unreachable, and remember a host that is."""
    host, unreachable = urlsplit(url).netloc, _unreachable_hosts.get()
    if unreachable is not None and host in unreachable:
        raise Unavailable(f"{url} is not requested, because {host} could not be reached before ({unreachable[host]}).")
    try:
        yield
    except Exception as error:
        if unreachable is not None and (cause := _connection_failure(error)):
            unreachable[host] = str(cause) or type(cause).__name__
        raise


def _connection_failure(error: BaseException | None) -> BaseException | None:
    """Find the failure to connect among the causes of an error: each HTTP client wraps it in its own exceptions."""
    while error is not None:
        if isinstance(error, (socket.gaierror, TimeoutError)) or getattr(error, "errno", None) in _UNREACHABLE:
            return error
        error = error.__cause__ or error.__context__
    return None


def downloads() -> Path:
    """Return the folder for files until a table is made from them."""
    folder = cache_dir() / DOWNLOADS
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def verify(path: Path, expected: str, origin: str, advice: str) -> None:
    """Compare a file with its SHA-256.

    Args:
        path: The file.
        expected: The published SHA-256.
        origin: Where the file comes from, for the message.
        advice: What to do if it is a different file, for the message.

    Raises:
        DataError: If it is a different file.
    """
    if (actual := sha256(path)) == expected:
        return
    kind = "an HTML page, perhaps a quota or log-in page" if is_html(path) else "a different file"
    raise DataError(f"{path.name} from {origin} is {kind}: its SHA-256 is {actual}, not {expected}. {advice}")


def fetch(url: str, path: Path, expected: str | None = None, limit: int = MAX_FILE, *, quiet: bool = False) -> Path:
    """Download a file, or resume an interrupted download.

    Args:
        url: The file's address. Google Drive's addresses are supported.
        path: Where the file goes. It appears there only when it is complete.
        expected: The published SHA-256.
        limit: The largest accepted size in bytes.
        quiet: Whether not to report to `progress`.

    Raises:
        Unavailable: If the download fails. The partial file is kept; the next call resumes.
        DataError: If the file is larger than the limit, or not the expected one.
    """
    import gdown
    import requests

    report = None if quiet else progress.get()

    def bounded(done: int, total: int | None) -> None:
        if max(done, total or 0) > limit:
            raise DataError(f"{url} sends {max(done, total or 0):,} bytes; more than {limit:,} are refused.")
        if report:
            report(path.name, done, total)

    for attempt in range(0 if path.exists() else _RETRIES):
        try:
            with _request(url):
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
            verify(path, expected, url, "Try again later, or download it yourself and use --from FOLDER.")
        except DataError:
            path.unlink()
            raise
    return path


def fetch_images(wanted: Iterable[tuple[str, Path]], check: Callable[[bytes, str], None]) -> None:
    """Download many small images in parallel, except for those that exist already.

    Args:
        wanted: Addresses, and where each image goes.
        check: Called with the bytes and the address; raises `DataError` for a damaged image.

    Raises:
        Unavailable: If a download fails. The complete images are kept.
        DataError: If an image is damaged or too large.
    """
    missing = [(url, path) for url, path in wanted if not path.exists()]

    def one(url: str, path: Path) -> None:
        fetch(url, path, limit=MAX_IMAGE, quiet=True)
        try:
            check(path.read_bytes(), url)
        except DataError:
            path.unlink()
            raise

    report = progress.get()
    with ThreadPoolExecutor(_THREADS) as pool:
        running = [pool.submit(one, url, path) for url, path in missing]
        try:
            for done, future in enumerate(as_completed(running), start=1):
                future.result()
                if report:
                    report("images", done, len(missing))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def hub_files(repo: str, choose: Callable[[str], bool], folder: str) -> list[Path]:
    """Download files of a Hub data set, sorted by name.

    They go to `downloads` and not to the Hub's cache, so that the pictures are not stored twice.

    Args:
        repo: The data set.
        choose: Called with the name of each file; returns whether to download it.
        folder: The name of the folder for them in `downloads`.

    Raises:
        Unavailable: If the Hub cannot be reached or does not have the files.
    """
    from huggingface_hub import HfApi

    place = downloads() / folder
    hub = HfApi(os.environ.get("HF_ENDPOINT"))
    try:
        with _request(f"{hub.endpoint}/datasets/{repo}"):
            names = sorted(filter(choose, hub.list_repo_files(repo, repo_type="dataset")))
            if not names:
                raise Unavailable(f"The Hub data set {repo} has no such file.")
            return [Path(hub.hf_hub_download(repo, name, repo_type="dataset", local_dir=place)) for name in names]
    except DataError:
        raise
    except Exception as error:  # the client's network errors have no common base, and differ by its version
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            raise
        raise Unavailable(f"The Hub data set {repo} cannot be reached: {' '.join(str(error).split())}") from error


def hub_folder(repo: str) -> str:
    """Return the name of a folder in `downloads` for the files of a Hub data set."""
    return repo.replace("/", "--")


def remove(names: Iterable[str]) -> None:
    """Delete files and folders in `downloads`, if they exist."""
    for name in names:
        path = downloads() / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
