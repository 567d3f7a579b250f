"""Untrusted files and failing networks: a clear error or a resumed download, never a wrong score."""

import io
import json
import lzma
import os
import resource
import signal
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageFile

from adaptvis_plugin.data import DataError, fetch, load_table, prepare, status
from tests.data_helpers import (
    DATA,
    FACTS,
    Request,
    Site,
    archives,
    image_bytes,
    jpeg,
    make_tar,
    make_zip,
    network,
    official,
    question_lines,
    without_checksum,
    write,
)

QUOTA = b"<!DOCTYPE html><html><title>Google Drive - Quota exceeded</title>Sorry, too many users ...</html>"
IMAGES = {row.image: image_bytes(row.image) for row in DATA["vg_one"] + DATA["vg_two"]}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """The network without the Hub, so that the archives are used."""
    with network(tmp_path, monkeypatch) as server:
        monkeypatch.setattr(fetch, "_RETRIES", 1)
        server.fill(hub=False)
        yield server


def refused(name: str, *words: str) -> None:
    """Check that preparing fails with these words, and leaves neither a table nor a half-written one."""
    with pytest.raises(DataError) as caught:
        prepare([name])
    for word in words:
        assert word in str(caught.value), str(caught.value)
    assert status()[name] is None
    assert not list(Path(os.environ["ADAPTVIS_CACHE"]).glob("*/*.part"))


# --- archives


def tar_with(**fields: Any) -> bytes:
    info = tarfile.TarInfo("x")
    for key, value in fields.items():
        setattr(info, key, value)
    return make_tar(IMAGES, info)


@pytest.mark.parametrize(
    ("archive", "words"),
    [
        (lambda: tar_with(name="../../evil.sh", size=3), "leads out"),
        (lambda: tar_with(name="/etc/evil", size=3), "leads out"),
        (lambda: tar_with(name="vg_images/a", type=tarfile.SYMTYPE, linkname="/etc/passwd"), "refused"),
        (lambda: tar_with(name="vg_images/a", type=tarfile.LNKTYPE, linkname="../../x"), "refused"),
        (lambda: tar_with(name="vg_images/139.jpg", type=tarfile.SYMTYPE, linkname="140.jpg"), "is a link"),
        (lambda: tar_with(name="vg_images/dev", type=tarfile.CHRTYPE), "refused"),
        (lambda: tar_with(name="vg_images/139.jpg", size=65 * 2**20), "are refused"),
        (lambda: make_tar(IMAGES)[:-200], "damaged or cut short"),
        (lambda: lzma.compress(make_tar(IMAGES))[:20] + b"x" * 200, "damaged or cut short"),
        (lambda: QUOTA, "HTML page"),
        (lambda: b"", "damaged or cut short"),
        (lambda: make_tar({}), "has no"),
    ],
    ids=[
        "escape",
        "absolute",
        "symlink",
        "hardlink",
        "link as picture",
        "device",
        "huge",
        "cut",
        "damaged xz",
        "html",
        "empty",
        "bare",
    ],
)
def test_bad_tar(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, archive: Callable[[], bytes], words: str
) -> None:
    without_checksum(monkeypatch, tmp_path, site.host, "vg_one")
    site.routes["/drive/vg_images.tar.gz"] = archive()
    refused("vg_one", "vg_images.tar.gz", words)
    assert not (tmp_path / "evil.sh").exists() and not Path("/etc/evil").exists()
    site.fill(hub=False)
    assert len(load_table("vg_one")) == 6, "a repaired archive is fetched again"


def with_headers(packed: bytes, flags: int = 0, method: int = 8) -> bytes:
    """A zip whose members say that they are encrypted, or packed in another way."""
    data = bytearray(packed)
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = data.find(signature)
        while at >= 0:
            data[at + offset : at + offset + 4] = bytes([flags, 0, method, 0])
            at = data.find(signature, at + 1)
    return bytes(data)


def test_bad_zip(site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    good = {row.image: image_bytes(row.image) for row in DATA["coco_two"]}
    for packed, words in [
        (make_zip({"../evil.jpg": b"x", **good}), "leads out"),
        (make_zip(dict.fromkeys(good, b"\0" * (65 * 2**20))), "are refused"),
        (make_zip(good)[:-30], "damaged"),
        (QUOTA, "HTML page"),
        (with_headers(make_zip(good), flags=1), "encrypted"),
        (with_headers(make_zip(good), method=99), "compression"),
    ]:
        site.routes["/drive/val2017.zip"] = packed
        refused("coco_two", "val2017.zip", words)


# --- pictures


def png_bomb() -> bytes:
    buffer = io.BytesIO()
    Image.new("1", (20000, 20000)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("picture", "words"),
    [(jpeg(1)[:-100], "cannot be decoded"), (b"", "cannot be decoded"), (QUOTA, "HTML page"), (png_bomb(), "pixels")],
    ids=["truncated", "empty", "html", "bomb"],
)
@pytest.mark.parametrize("lenient", [False, True], ids=["", "in lmms-eval, which makes Pillow lenient"])
def test_bad_pictures(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, picture: bytes, words: str, lenient: bool
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient)
    without_checksum(monkeypatch, tmp_path, site.host, "vg_one")
    site.routes["/drive/vg_images.tar.gz"] = make_tar({**IMAGES, "vg_images/140.jpg": picture})
    refused("vg_one", words, "row 2")
    site.routes["/coco/train2017/000000000003.jpg"] = picture
    refused("vsr", words, "000000000003.jpg")
    folder = official(tmp_path / "official")
    write(folder / "data/vg_images/140.jpg", picture)
    with pytest.raises(DataError, match="row 2"):
        prepare(["vg_one"], folder)


def test_picture_outside_the_folder(site: Site, tmp_path: Path) -> None:
    for name in ("../secret.jpg", "/etc/passwd"):
        entry = {"image_path": name, "caption_options": ["A mug on a table", "A mug under a table"]}
        write(tmp_path / "mine/rooms.json", json.dumps([entry]).encode())
        with pytest.raises(DataError, match="leads out"):
            prepare(["rooms"], tmp_path / "mine")


def test_missing_picture_names_the_row(site: Site, tmp_path: Path) -> None:
    folder = official(tmp_path / "official")
    (folder / "data" / DATA["controlled_b"][3].image).unlink()
    with pytest.raises(DataError, match="Row 3"):
        prepare(["controlled_b"], folder)


# --- checksums, counts, agreement


def test_wrong_checksums(site: Site) -> None:
    good = dict(site.routes)
    questions = f"/prompts/{FACTS['whatsup']['controlled_a']['questions']}"
    site.routes[questions] = question_lines("controlled_a").replace("mug", "cup").encode()
    refused("controlled_a", "SHA-256", "a different file")
    site.routes |= {questions: QUOTA}
    refused("controlled_a", "SHA-256", "an HTML page")
    for path in ("/drive/controlled_images.tar.gz", "/drive/controlled_images_dataset.json"):
        for body in (QUOTA, b"[]"):
            site.routes = {**good, path: body}
            refused("controlled_a", path.removeprefix("/drive/"), "SHA-256")
    site.routes = {**good, "/vsr.jsonl": good["/vsr.jsonl"].replace(b'"label": 0', b'"label": 1')}  # type: ignore[union-attr]
    refused("vsr", "SHA-256", "not the published ones")


def test_wrong_number_of_rows(site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without_checksum(monkeypatch, tmp_path, site.host, "vg_one", rows=7)
    refused("vg_one", "6 rows, 7 were published")


def test_a_question_that_disagrees_with_its_caption_is_named(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lines = question_lines("vg_two").splitlines()
    lines[4] = lines[4].replace("Above", "Below")
    site.routes[f"/prompts/{FACTS['whatsup']['vg_two']['questions']}"] = "\n".join(lines).encode()
    without_checksum(monkeypatch, tmp_path, site.host, "vg_two", questions_sha256=fetch_sha("\n".join(lines)))
    refused("vg_two", "row 4", "'Below'", "on top of")


def fetch_sha(text: str) -> str:
    import hashlib

    return hashlib.sha256(text.encode()).hexdigest()


def test_parquet_that_is_not_parquet(site: Site) -> None:
    del site.routes["/drive/vg_qa_two_obj.json"]
    for body in (QUOTA, b"PAR1 cut"):
        site.add_hub("ServiceNow/whatsup_all", {"data/VG_QA_two_obj-00000-of-00001.parquet": body})
        refused("vg_two", "is not a parquet file")


def test_damaged_table(site: Site, tmp_path: Path) -> None:
    write(tmp_path / "cache/vg_two/table.arrow", b"not arrow")
    with pytest.raises(DataError, match="--force"):
        load_table("vg_two")
    prepare(["vg_two"], force=True)
    assert len(load_table("vg_two")) == 6


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "{whatsup: {controlled_a: {rows: many}}, vsr: {size: 1}}",
            ["whatsup.controlled_a.rows: Input should be", "vsr.size: Extra"],
        ),
        ("{whatsup: {controlled_c: {rows: 1}}}", ["whatsup.controlled_c: Extra inputs are not permitted"]),
        ("{drive: x}", ["drive: Extra inputs are not permitted"]),
        ("{vsr: 7}", ["a mapping is needed, not 7"]),
        ("[", ["while parsing"]),
    ],
)
def test_sources_with_wrong_and_unknown_keys(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, words: list[str]
) -> None:
    monkeypatch.setenv("ADAPTVIS_SOURCES", str(write(tmp_path / "bad.yaml", text.encode())))
    for name in ("vg_two", "vsr"):
        refused(name, "bad.yaml cannot be used: ", "It must be a YAML file with keys among coco_url, drive_url", *words)


# --- the network


def test_nothing_can_be_reached(site: Site) -> None:
    path = f"/prompts/{FACTS['whatsup']['vg_two']['questions']}"
    questions = site.routes[path]
    site.routes.clear()
    refused("vg_two", f"The questions of vg_two are not available now: {site.host.rstrip('/')}{path}", "--from FOLDER")
    assert {asked for _, asked, _ in site.log} == {path}, "nothing large is fetched for nothing"
    site.routes[path] = questions
    refused("vg_two", "ServiceNow/whatsup_all", "joaomonteirof", "/drive/vg_qa_two_obj.json", "--from FOLDER")


def test_a_busy_server_is_tried_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "_RETRIES", 2)
    path = "/drive/vg_qa_two_obj.json"
    good = site.routes[path]

    def busy(request: Request) -> None:
        site.routes[path] = good
        request.reply(503, b"busy")

    site.routes[path] = busy
    assert len(load_table("vg_two")) == 6


def test_a_file_that_is_too_long_is_refused_before_it_is_fetched(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "MAX_IMAGE", 5000)
    site.routes["/coco/train2017/000000000003.jpg"] = b"\xff" * 200_000
    refused("vsr", "000000000003.jpg", "more than 5,000 are refused")


def cut(body: bytes, after: int) -> Callable[[Request], None]:
    return lambda request: request.send(body, cut=after)


def test_an_interrupted_download_resumes(site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without_checksum(monkeypatch, tmp_path, site.host, "vg_one")
    path, body = "/drive/vg_images.tar.gz", make_tar({**IMAGES, "vg_images/big.jpg": os.urandom(3 * 2**20)})
    half = len(body) // 2
    site.routes[path] = cut(body, half)
    site.log.clear()
    with pytest.raises(DataError, match="resume where they stopped"):
        prepare(["vg_one"])
    site.routes[path] = body
    site.log.clear()
    assert len(load_table("vg_one")) == 6
    ranges = [asked for _, asked_path, asked in site.log if asked_path == path and asked]
    assert ranges and int(ranges[0].removeprefix("bytes=").rstrip("-")) >= 2**20


def test_missing_vsr_images_are_fetched_alone(site: Site) -> None:
    path = "/coco/train2017/000000000003.jpg"
    good = site.routes[path]

    def missing(request: Request) -> None:
        site.wait_until_asked("/coco/", 5)
        request.reply(404, b"not here")

    site.routes[path] = missing
    refused("vsr", "000000000003.jpg")
    site.routes[path] = good
    site.log.clear()
    assert len(load_table("vsr")) == 10
    assert site.asked("/coco/") == 1


# --- the machine

SCRIPT = "import sys; from adaptvis_plugin.data import load_table; print(len(load_table(sys.argv[1])))"


def start(name: str, **kwargs: Any) -> "subprocess.Popen[str]":
    """Prepare a table in another process, in which `datasets` need not import torch."""
    kwargs["env"] = {**os.environ, **kwargs.get("env", {}), "USE_TORCH": "0"}
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, name],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1], **kwargs,
    )  # fmt: skip


def test_several_processes_prepare_once(site: Site) -> None:
    processes = [start("controlled_b") for _ in range(2)]
    assert [process.communicate(timeout=600)[0].strip() for process in processes] == ["8"] * 2
    assert site.asked("/drive/controlled_clevr.tar.gz") == 1


def test_a_killed_process_is_taken_over(site: Site) -> None:
    path, body = "/drive/controlled_clevr.tar.gz", archives()["controlled_clevr.tar.gz"]
    arrived, killed = threading.Event(), threading.Event()

    def stall(request: Request) -> None:
        request.send_response(200)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body[:600])
        request.wfile.flush()
        arrived.set()
        killed.wait()

    site.routes[path] = stall
    process = start("controlled_b")
    while not arrived.wait(0.1):
        assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    killed.set()
    assert status()["controlled_b"] is None
    site.routes[path] = body
    assert len(load_table("controlled_b")) == 8


@pytest.mark.parametrize("megabytes", [0, 1])
def test_full_disk(site: Site, tmp_path: Path, megabytes: int) -> None:
    """A file-size limit makes the system refuse to write, as a full disk does."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (megabytes * 2**20 or 2000,) * 2)

    # the demo table has 2 MB; the archive of VG is the first file over 2000 bytes
    process = start("demo" if megabytes else "vg_one", preexec_fn=limit, env={"HF_HUB_OFFLINE": "1"})
    error = process.communicate(timeout=600)[1]
    assert process.returncode != 0
    assert "No room to prepare" in error and "ADAPTVIS_CACHE" in error
    assert set(status().values()) == {None}
    assert len(load_table("vg_one")) == 6
