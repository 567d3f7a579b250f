"""Sources on the network: forms of the Hub's parquet, the next source if one is useless, one attempt for each host."""

import io
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from adaptvis_plugin.attention.boxes.pictures import file_names
from adaptvis_plugin.data import DataError, load_table, prepare, status
from tests.data_helpers import DATA, FACTS, Site, image_bytes, jpeg, network, official, sources

FIRST, SECOND = FACTS["whatsup_hub"]
FILE = "data/VG_QA_two_obj-00000-of-00001.parquet"
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
CAPTIONS = pa.list_(pa.string())
PICTURES = [{"bytes": image_bytes(row.image), "path": None} for row in DATA["vg_two"]]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """The network with the archives, and a Hub for tests to fill."""
    with network(tmp_path, monkeypatch) as server:
        server.fill(hub=False)
        yield server


def parquet(
    images: list[Any],
    kind: Any,
    captions: list[Any] | None = None,
    names: tuple[str, str] = ("image_options", "caption_options"),
    group: int = 4,
) -> bytes:
    captions = [row.captions for row in DATA["vg_two"]] if captions is None else captions
    columns = dict(zip(names, [pa.array(images, kind), pa.array(captions, CAPTIONS)], strict=True))
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, row_group_size=group)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("images", "kind"),
    [
        (PICTURES, IMAGE),
        ([[picture] for picture in PICTURES], pa.list_(IMAGE)),
        ([[picture] for picture in PICTURES], pa.large_list(IMAGE)),
        ([[picture] for picture in PICTURES], pa.list_(IMAGE, 1)),
    ],
    ids=["image", "list of one", "large list", "list of fixed size"],
)
def test_the_forms_of_an_image(site: Site, images: list[Any], kind: Any) -> None:
    site.add_hub(FIRST, {FILE: parquet(images, kind)})
    [origin] = prepare(["vg_two"])
    assert origin.source == f"Hub data set {FIRST}"
    for row, made in zip(load_table("vg_two"), DATA["vg_two"], strict=True):
        assert (row["caption_options"], row["image"].size) == (made.captions, (24, 18))


@pytest.mark.parametrize("kind", [IMAGE, pa.list_(IMAGE), pa.list_(IMAGE, 1)], ids=str)
def test_a_table_keeps_the_names_of_its_pictures_files(site: Site, kind: Any) -> None:
    named = [{**picture, "path": f"{number}.jpg"} for number, picture in enumerate(PICTURES)]
    site.add_hub(FIRST, {FILE: parquet(named if kind == IMAGE else [[one] for one in named], kind)})
    prepare(["vg_two"])
    assert file_names("vg_two") == ["0.jpg", "1.jpg", "2.jpg", "3.jpg", "4.jpg", "5.jpg"]


TWO = [[picture, picture] for picture in PICTURES]
NULLS = [*PICTURES[:5], None]
PATHS = [{"bytes": None, "path": "1.jpg"} for _ in PICTURES]
EQUAL = [row.captions[:1] * 2 for row in DATA["vg_two"]]
USELESS = {
    "numbers": (parquet(list(range(6)), pa.int64()), "its image_options is int64, which is neither an image"),
    "texts": (parquet(["a"] * 6, pa.string()), "its image_options is string"),
    "list of texts": (parquet([["a"]] * 6, pa.list_(pa.string())), "its image_options is list<element: string>"),
    "lists of two": (parquet(TWO, pa.list_(IMAGE)), "row 0: its image_options are 2 images, but one is expected"),
    "empty lists": (parquet([[]] * 6, pa.list_(IMAGE)), "row 0: its image_options are 0 images"),
    "a null": (parquet(NULLS, IMAGE), "row 5: there is no picture in the file"),
    "paths only": (parquet(PATHS, IMAGE), "row 0: there is no picture in the file"),
    "no pictures": (
        parquet(PICTURES, IMAGE, names=("pictures", "caption_options")),
        "it has no image_options, only pictures, caption_o",
    ),
    "no captions": (parquet(PICTURES, IMAGE, names=("image_options", "texts")), "it has no caption_options"),
    "null captions": (parquet(PICTURES, IMAGE, [None] * 6), "row 0: its captions are None"),
    "equal captions": (parquet(PICTURES, IMAGE, EQUAL), "row 0: its true caption"),
    "too few rows": (parquet(PICTURES[:4], IMAGE, [row.captions for row in DATA["vg_two"][:4]]), "has 4 rows"),
    "damaged": (parquet(PICTURES, IMAGE)[:40] + b"\xff" * 64 + parquet(PICTURES, IMAGE)[104:], ""),
    "a damaged picture": (parquet([*PICTURES[:5], {"bytes": jpeg(1)[:-90]}], IMAGE), "row 5"),
}


@pytest.mark.parametrize("kind", USELESS)
def test_a_useless_source_is_named_and_the_next_one_tried(
    site: Site, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    body, words = USELESS[kind]
    site.add_hub(FIRST, {FILE: body})
    site.add_hub(SECOND, {FILE: parquet(PICTURES, IMAGE)})
    [origin] = prepare(["vg_two"])
    assert origin.source == f"Hub data set {SECOND}"
    assert len(load_table("vg_two")) == 6
    [warning] = caplog.messages
    assert words in warning and f"trying the Hub data set {SECOND}" in warning


def test_a_useless_file_is_fetched_again(site: Site) -> None:
    site.add_hub(FIRST, {FILE: USELESS["numbers"][0]})
    del site.routes["/drive/vg_qa_two_obj.json"]
    with pytest.raises(DataError, match="int64") as caught:
        prepare(["vg_two"])
    assert SECOND in str(caught.value) and "/drive/vg_qa_two_obj.json" in str(caught.value)
    assert status()["vg_two"] is None
    site.add_hub(FIRST, {FILE: parquet(PICTURES, IMAGE)})
    assert prepare(["vg_two"])[0].source == f"Hub data set {FIRST}"


def test_a_table_made_again_has_the_new_pictures(site: Site) -> None:
    """No picture of the old file is cached in the process."""
    site.add_hub(FIRST, {FILE: parquet(PICTURES, IMAGE, group=6)})
    before = load_table("vg_two")["image_id"][:]
    new = [{"bytes": jpeg(number), "path": None} for number in range(6)]
    site.add_hub(FIRST, {FILE: parquet(new, IMAGE, group=6)})
    prepare(["vg_two"], force=True)
    assert not set(before) & set(load_table("vg_two")["image_id"][:])


def test_a_table_from_the_hub_is_replaced_by_a_folder(site: Site, tmp_path: Path) -> None:
    site.add_hub(FIRST, {FILE: parquet(PICTURES, IMAGE)})
    assert prepare(["vg_two"])[0].verified == ("number of rows", "captions", "SHA-256 of questions")
    folder = official(tmp_path / "official")
    [origin] = prepare(["vg_two"], folder)
    assert origin.source == str(folder) and origin.verified[-1] == "SHA-256 of questions, annotations"
    assert status()["vg_two"] == origin


def test_the_checksums_of_archives_are_shown(site: Site) -> None:
    [all_of_them, some] = prepare(["controlled_a", "coco_two"])
    assert all_of_them.verified == ("number of rows", "captions", "SHA-256 of questions, annotations, archive")
    assert some.verified == ("number of rows", "captions", "SHA-256 of questions, annotations")


# --- no network


class Calls:
    """Count host look-ups and waits. Hosts under `.invalid` do not exist, as if there were no network."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lookups: list[str] = []
        self.waits: list[float] = []
        look_up = socket.getaddrinfo

        def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
            name = host.decode() if isinstance(host, bytes) else str(host)
            self.lookups.append(name)
            if name.endswith(".invalid"):
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            return look_up(host, *args, **kwargs)

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        monkeypatch.setattr(time, "sleep", self.waits.append)

    def clear(self) -> None:
        self.lookups.clear()
        self.waits.clear()


def test_an_unreachable_host_is_tried_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
    calls = Calls(monkeypatch)
    prepare(["vg_two"])
    assert "hub.invalid" in calls.lookups, "the Hub was tried before the archives"
    once = (calls.lookups.count("hub.invalid"), list(calls.waits))
    calls.clear()
    prepare(["vg_one", "vg_two", "coco_two"], force=True)
    assert (calls.lookups.count("hub.invalid"), calls.waits) == once, "three tables, two data sets, one attempt"
    calls.clear()
    monkeypatch.setenv("HF_ENDPOINT", site.host.rstrip("/"))
    site.add_hub(FIRST, {FILE: parquet(PICTURES, IMAGE)})
    assert prepare(["vg_two"], force=True)[0].source == f"Hub data set {FIRST}", "the next command tries again"


def test_the_second_data_set_of_an_unreachable_hub_is_skipped(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
    del site.routes["/drive/vg_qa_two_obj.json"]
    Calls(monkeypatch)
    with pytest.raises(DataError) as caught:
        prepare(["vg_two"])
    text = str(caught.value)
    assert f"The Hub data set {FIRST} cannot be reached" in text
    assert f"{SECOND} is not requested, because hub.invalid could not be reached before" in text


def test_a_host_that_answers_is_tried_again(site: Site) -> None:
    """404 is an answer."""
    prepare(["vg_two"])
    assert site.asked(f"/api/datasets/{FIRST}/") == site.asked(f"/api/datasets/{SECOND}/") == 1


def test_without_network_only_the_questions_are_requested(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADAPTVIS_SOURCES", str(sources(tmp_path, "http://questions.invalid/")))
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
    calls = Calls(monkeypatch)
    with pytest.raises(DataError, match="The questions of controlled_a are not available now"):
        prepare(["whatsup"])
    assert set(calls.lookups) == {"questions.invalid"}
