"""Tiny WhatsUp and VSR data in exactly the published layouts, and a local server that has them and can fail."""

import gzip
import hashlib
import io
import json
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from adaptvis_plugin.data.vsr import VsrFacts
from adaptvis_plugin.data.whatsup.facts import WhatsUpFacts

Handler = Callable[["Request"], None]

FACTS: dict[str, Any] = {**WhatsUpFacts().model_dump(), **VsrFacts().model_dump()}
ROWS = {"controlled_a": 8, "controlled_b": 8, "coco_one": 6, "coco_two": 6, "vg_one": 6, "vg_two": 6, "vsr": 10}
PHRASES = {
    "left": "to the left of",
    "right": "to the right of",
    "on": "on",
    "under": "under",
    "front": "in front of",
    "behind": "behind",
    "above": "on top of",
    "below": "below",
}
OPPOSITE = {"left": "right", "right": "left", "top": "bottom", "bottom": "top", "above": "below", "below": "above"}
OPPOSITE |= {"front": "behind", "behind": "front"}


@dataclass
class Row:
    """A row of any subset: its annotation, and its question."""

    entry: Any
    captions: list[str]
    image: str
    question: str
    answer: str


def jpeg(seed: int, size: tuple[int, int] = (24, 18)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (seed * 37 % 256, seed * 101 % 256, 90)).save(buffer, "JPEG")
    return buffer.getvalue()


def image_bytes(name: str) -> bytes:
    return jpeg(int(hashlib.sha256(name.encode()).hexdigest()[:4], 16))


def controlled(relations: list[str], folder: str) -> list[Row]:
    rows = []
    for thing, place in (("mug", "table"), ("left shoe", "chair")):
        captions = {r: f"A {thing} {PHRASES[r]} a {place}" for r in relations}
        for number, relation in enumerate(relations):
            words = PHRASES[relation].removeprefix("to the ").replace("in front of", "in-front of").replace(" ", "_")
            path = f"data/{folder}/{thing.replace(' ', '-')}_{words}_{place}.jpeg"
            options = [captions[relation], *(c for r, c in captions.items() if r != relation)]
            last = ", or" if number == 3 and place == "chair" else " or"  # one set is not uniform, as in A
            listed = ", ".join(relations[:-1]) + f"{last} {relations[-1]}"
            text = f"Where is the {thing} in relation to the {place}? Answer with {listed}."
            entry = {"image_path": path, "caption_options": options}
            rows.append(Row(entry, options, path.removeprefix("data/"), text, relation.capitalize()))
    order = [5, 0, 3, 6, 1, 7, 4, 2]  # sets are scattered over the file
    return [rows[i] for i in order]


def listed(relations: list[str], options: str, image: str, one: bool) -> list[Row]:
    rows = []
    for number, relation in enumerate(relations):
        image_id = 139 + number // 2  # some images have two questions
        if one:
            captions = [f"A photo of a dog on the {r}" for r in (relation, OPPOSITE[relation])]
            text = f"Where is the dog in the photo? Answer with {options}."
        else:
            captions = [f"A photo of a cat {PHRASES[r]} a bed" for r in (relation, OPPOSITE[relation])]
            text = f" Where are the cats in relation to the bed? \nAnswer with {options}."
        name = image.format(id=image_id)
        rows.append(Row([image_id, *captions], captions, name, text, relation.capitalize()))
    return rows


COCO, VG = "val2017/{id:012d}.jpg", "vg_images/{id}.jpg"
TOP, ABOVE = ["left", "right", "top", "bottom", "left", "right"], ["left", "right", "above", "below", "left", "right"]
SIX = ["left", "right", "front", "behind", "above", "left"]
DATA: dict[str, list[Row]] = {
    "controlled_a": controlled(["left", "right", "on", "under"], "controlled_images"),
    "controlled_b": controlled(["left", "right", "front", "behind"], "controlled_clevr"),
    "coco_one": listed(TOP, "left, right, top or bottom", COCO, True),
    "coco_two": listed(ABOVE, "left, right, above, or below", COCO, False),
    "vg_one": listed(TOP, "left, right, front, behind, top or bottom", VG, True),
    "vg_two": listed(SIX, "left, right, front, behind, above or below", VG, False),
}


def question_lines(name: str) -> str:
    return "".join(
        json.dumps({"id": i, "question": f"<image>\nUSER: {row.question}\nASSISTANT:", "answer": [row.answer]}) + "\n"
        for i, row in enumerate(DATA[name])
    )


def vsr_lines(host: str = "http://images.cocodataset.org") -> str:
    lines = []
    for number in range(ROWS["vsr"]):
        image, relation = f"{number // 2:012d}.jpg", ("under", "next to", "facing")[number % 3]
        link = f"{host}/{'val' if number // 2 == 2 else 'train'}2017/{image}"
        caption = f"The cat is {relation} the bed."
        row = {"image": image, "image_link": link, "caption": caption, "label": number % 2, "relation": relation}
        lines.append(json.dumps({**row, "subj": "cat", "obj": "bed"}) + "\n")
    return "".join(lines)


def vsr_images() -> dict[str, bytes]:
    rows = [json.loads(line) for line in vsr_lines().splitlines()]
    return {row["image_link"].split(".org/")[1]: image_bytes(row["image"]) for row in rows}


def official(folder: Path) -> Path:
    """The authors' folder: annotations, unpacked images, question files, and VSR beside them."""
    for name, rows in DATA.items():
        facts = FACTS["whatsup"][name]
        write(folder / "data" / facts["annotations"], json.dumps([row.entry for row in rows]).encode())
        write(folder / "prompts" / facts["questions"], question_lines(name).encode())
        for row in rows:
            write(folder / "data" / row.image, image_bytes(row.image))
    write(folder / "test.jsonl", vsr_lines().encode())
    for path, data in vsr_images().items():
        write(folder / path, data)
    return folder


def archives() -> dict[str, bytes]:
    """The four archives of the authors, by file name."""
    packed = {}
    for facts_name, name in {facts["images"]: name for name, facts in FACTS["whatsup"].items()}.items():
        members = {row.image: image_bytes(row.image) for other, rows in DATA.items() for row in rows
                   if FACTS["whatsup"][other]["images"] == FACTS["whatsup"][name]["images"]}  # fmt: skip
        packed[facts_name] = make_zip(members) if facts_name.endswith(".zip") else make_tar(members)
    return packed


def make_tar(members: dict[str, bytes], *extra: tarfile.TarInfo) -> bytes:
    buffer = io.BytesIO()
    # no time of day in the header, so that checksums stay the same
    with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0) as packed, tarfile.open(fileobj=packed, mode="w") as tar:
        for info in extra:
            tar.addfile(info, io.BytesIO(b"x" * info.size))
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def make_zip(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, data in members.items():
            packed.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def parquet(name: str) -> bytes:
    """A subset as in the Hub data set: `image_options` (bytes and path) and `caption_options`."""
    rows = [{"image_options": {"bytes": image_bytes(r.image), "path": None}, "caption_options": r.captions}
            for r in DATA[name]]  # fmt: skip
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer, row_group_size=3)
    return buffer.getvalue()


def sources(folder: Path, host: str = "http://127.0.0.1:9/") -> Path:
    """A file for ADAPTVIS_SOURCES with the facts of the tiny data."""
    packed = archives()
    whatsup = {}
    for name, facts in FACTS["whatsup"].items():
        annotations = json.dumps([row.entry for row in DATA[name]]).encode()
        whatsup[name] = {
            "rows": ROWS[name],
            "questions_sha256": hashlib.sha256(question_lines(name).encode()).hexdigest(),
            "annotations_sha256": hashlib.sha256(annotations).hexdigest(),
            "annotations_id": facts["annotations"],
            "images_id": facts["images"],
            "images_sha256": None if name == "coco_two" else hashlib.sha256(packed[facts["images"]]).hexdigest(),
        }
    rows = [json.loads(line) for line in vsr_lines().splitlines()]
    content = "\n".join(f"{r['image']}\t{r['caption']}\t{r['label']}" for r in rows)
    facts = {
        "drive_url": f"{host}drive/",
        "questions_url": f"{host}prompts/",
        "coco_url": f"{host}coco/",
        "whatsup": whatsup,
        "vsr": {
            "rows": ROWS["vsr"],
            "url": f"{host}vsr.jsonl",
            "content_sha256": hashlib.sha256(content.encode()).hexdigest(),
        },
    }
    return write(folder / "sources.yaml", yaml.safe_dump(facts).encode())


def without_checksum(monkeypatch: pytest.MonkeyPatch, folder: Path, host: str, name: str, **change: Any) -> None:
    """Change the facts of a subset so that its archive has no published checksum."""
    path = sources(folder, host)
    facts = yaml.safe_load(path.read_text())
    facts["whatsup"][name] |= {"images_sha256": None, **change}
    path.write_text(yaml.safe_dump(facts))
    monkeypatch.setenv("ADAPTVIS_SOURCES", str(path))


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


class Request(BaseHTTPRequestHandler):
    """Serves the routes of its `Site`, with ranges as real servers do."""

    protocol_version = "HTTP/1.1"
    server: "Site"  # type: ignore[assignment]

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        with self.server.asking:
            self.server.log.append((self.command, path, self.headers.get("Range")))
            self.server.asking.notify_all()
        route = self.server.routes.get(path)
        if callable(route):
            route(self)
        elif route is None:
            self.reply(404, b"not here")
        else:
            self.send(route)

    do_HEAD = do_GET

    def send(self, body: bytes, kind: str = "application/octet-stream", cut: int | None = None) -> None:
        """Answer with a body, or the requested range of it; `cut` ends the answer after so many bytes."""
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        self.send_response(206 if self.headers.get("Range") else 200)
        digest = hashlib.sha256(body).hexdigest()
        headers = {"Content-Type": kind, "Content-Length": str(len(body) - start), "ETag": f'"{digest}"'}
        headers |= {"X-Repo-Commit": "0" * 40, "Accept-Ranges": "bytes"}
        if self.headers.get("Range"):
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[start : None if cut is None else start + cut])
            if cut is not None:
                self.wfile.flush()
                self.close_connection = True

    def reply(self, status: int, body: bytes, kind: str = "text/plain") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@dataclass
class Site(ThreadingHTTPServer):
    """A local server with everything that the sources name; tests replace routes to make it fail."""

    routes: dict[str, bytes | Handler] = field(default_factory=dict)
    log: list[tuple[str, str, str | None]] = field(default_factory=list)
    asking: threading.Condition = field(default_factory=threading.Condition)

    def __post_init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Request)
        self.daemon_threads = True

    __hash__ = object.__hash__

    @property
    def host(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/"

    def asked(self, part: str) -> int:
        return sum(part in path for command, path, _ in self.log if command == "GET")

    def wait_until_asked(self, part: str, times: int) -> None:
        """Wait for requests whose paths contain `part`."""
        with self.asking:
            self.asking.wait_for(lambda: self.asked(part) >= times)

    def fill(self, hub: bool = True) -> None:
        """Serve the authors' files and archives, the COCO images, and the Hub if wanted."""
        for name, rows in DATA.items():
            facts = FACTS["whatsup"][name]
            self.routes[f"/drive/{facts['annotations']}"] = json.dumps([row.entry for row in rows]).encode()
            self.routes[f"/prompts/{facts['questions']}"] = question_lines(name).encode()
        self.routes |= {f"/drive/{name}": data for name, data in archives().items()}
        self.routes |= {f"/coco/{path}": data for path, data in vsr_images().items()}
        self.routes["/vsr.jsonl"] = vsr_lines().encode()
        if hub:
            names = {f"data/{FACTS['whatsup'][n]['subset']}-00000-of-00001.parquet": parquet(n) for n in DATA}
            self.add_hub(FACTS["whatsup_hub"][0], names)
            self.add_hub(FACTS["vsr"]["hub"], {"test.jsonl": vsr_lines(self.host.rstrip("/")).encode()})

    def add_hub(self, repo: str, files: dict[str, bytes]) -> None:
        """Serve a data set like the Hub's HTTP interface."""
        tree = [{"type": "file", "path": name, "size": len(data), "oid": "0" * 40} for name, data in files.items()]
        listing = json.dumps(tree).encode()
        self.routes[f"/api/datasets/{repo}/tree/main"] = lambda request: request.send(listing, "application/json")
        self.routes |= {f"/datasets/{repo}/resolve/main/{name}": data for name, data in files.items()}


@contextmanager
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator["Site"]:
    """Provide an empty cache, and a server in place of every source on the network for the test to fill."""
    with serve() as server:
        monkeypatch.setenv("ADAPTVIS_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("ADAPTVIS_SOURCES", str(sources(tmp_path, server.host)))
        monkeypatch.setenv("HF_ENDPOINT", server.host.rstrip("/"))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        yield server


@contextmanager
def serve() -> Iterator[Site]:
    site = Site()
    thread = threading.Thread(target=site.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield site
    finally:
        site.shutdown()
        site.server_close()
        thread.join()
