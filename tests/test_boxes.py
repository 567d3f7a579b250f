"""Boxes of a question's objects: from files in the published layouts, for real tasks and their tables."""

import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptvis_plugin.attention.boxes import Asked, Box, BoxSource, Found, LeftOut, Reason, open_source
from adaptvis_plugin.attention.boxes.labelled import Labelled
from adaptvis_plugin.attention.boxes.labels import Labels
from adaptvis_plugin.attention.boxes.names import named_like, named_objects, words_in
from adaptvis_plugin.attention.boxes.pictures import Pictures, table_of
from adaptvis_plugin.attention.boxes.stream import read_items
from adaptvis_plugin.attention.record import AttentionError
from adaptvis_plugin.data import load_table, prepare, vsr
from adaptvis_plugin.data.demo.rows import demo_boxes
from tests.data_helpers import official, sources

REFERENCE = Path(__file__).parents[2] / "shared" / "reference"
needs_reference = pytest.mark.skipif(not REFERENCE.is_dir(), reason="needs the authors' question files")

SIZE = (24, 18)  # of the tiny data's pictures


@pytest.fixture(scope="module", autouse=True)
def tables(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Tables of tiny COCO and Visual Genome pictures, made from a folder in the authors' layout."""
    folder = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADAPTVIS_CACHE", str(folder / "cache"))
        patch.setenv("ADAPTVIS_SOURCES", str(sources(folder)))
        patch.chdir(official(folder / "official") / "data" / "val2017")  # where a picture's name is also a file here
        prepare(["coco_two", "vg_two", "vsr"], folder / "official")
        prepare(["demo"])
        yield


def asked(table: str, row: int, size: tuple[int, int] = SIZE, **change: Any) -> Asked:
    """A row as a trace gives it: the question is the whole prompt, the document's number that in a split."""
    found = load_table(table)[row]
    known = {"question": found["prompt"], "image": found["image_id"], "relation": found["relation"], "sizes": (size,)}
    return Asked(**{"doc_id": 0, **known, **change})


def opened(text: str | None, task: str, **given: Any) -> BoxSource:
    source = open_source(text, task, **given)
    assert source is not None
    return source


def coco(folder: Path, boxes: list[dict[str, Any]], size: tuple[int, int] = SIZE) -> Path:
    """Annotations of the pictures 139 and 140 in COCO's layout, with all that COCO writes."""
    images = [
        {"license": 4, "file_name": f"{n:012d}.jpg", "coco_url": f"http://images.cocodataset.org/val2017/{n:012d}.jpg",
         "height": size[1], "width": size[0], "date_captured": "2013-11-14 17:02:52", "id": n}
        for n in (139, 140)
    ]  # fmt: skip
    common = {"segmentation": [[1.5, 2.0, 3.0, 4.5, 2.0, 2.0]], "area": 702.1, "iscrowd": 0, "image_id": 139}
    annotations = [{**common, **box, "id": number} for number, box in enumerate(boxes)]
    categories = [{"supercategory": "animal", "id": 17, "name": "cat"}, {"supercategory": "f", "id": 65, "name": "bed"}]
    content = {"info": {"year": 2017, "contributor": "é"}, "licenses": [{"id": 1}], "images": images,
               "annotations": annotations, "categories": categories}  # fmt: skip
    path = folder / "instances_val2017.json"
    path.write_text(json.dumps(content))
    return path


CAT, BED = {"category_id": 17, "bbox": [1.25, 2, 6, 5]}, {"category_id": 65, "bbox": [10, 4, 14, 14]}
FOUND = (Box("cats", 1.25, 2, 7.25, 7), Box("bed", 10, 4, 24, 18))


def test_the_drawn_scenes_have_their_boxes_by_default() -> None:
    assert table_of("whatsup_demo") == table_of("WhatsUp_Demo") == "demo", "in lmms-eval and VLMEvalKit"
    source, left_out = opened(None, "whatsup_demo_test"), LeftOut()
    rows = load_table("demo").remove_columns("image")
    for row, drawn in zip(rows, demo_boxes(), strict=True):
        found = source.of(Asked(0, row["prompt"], row["image_id"], ((128, 128),)))
        left_out.add(row["id"], found)
        names = named_objects(row["question"])
        assert [box.name for box in found.boxes] == [*names] and len(names) == 2
        for name, box in zip(names, found.boxes, strict=True):
            assert (box.left, box.top, box.right, box.bottom) == pytest.approx(drawn[name], abs=1e-4)
    assert (left_out.rows, left_out.sentences()) == (400, [])


def test_boxes_of_coco(tmp_path: Path) -> None:
    crowd = {**CAT, "iscrowd": 1, "bbox": [0, 0, 24, 18], "segmentation": {"counts": [5, 9], "size": [18, 24]}}
    empty = {**CAT, "bbox": [5, 5, 0, 3]}
    source = opened(f"coco:{coco(tmp_path, [BED, crowd, CAT, empty])}", "whatsup_coco_two_test")
    assert source.of(asked("coco_two", 0)) == Found(FOUND)
    assert source.of(asked("coco_two", 1)) == Found(FOUND), "it has the same picture"
    assert source.of(asked("coco_two", 2)).reason is Reason.MISSING, "its picture has no labels"
    assert source.of(asked("coco_two", 4)) == Found(reason=Reason.UNLABELLED, detail="'000000000141'")
    assert source.unused() == ""


def test_a_picture_given_in_another_size_keeps_its_boxes_if_its_shape_is_the_same(tmp_path: Path) -> None:
    source = opened(f"coco:{coco(tmp_path, [CAT, BED], size=(48, 36))}", "whatsup_coco_two")
    cat, _ = source.of(asked("coco_two", 0)).boxes
    assert cat == Box("cats", 0.625, 1, 3.625, 3.5)
    other = source.of(asked("coco_two", 0, size=(18, 24)))
    assert other == Found(reason=Reason.OTHER, detail="'000000000139' is 48 x 36 there, but 18 x 24 here")


def test_boxes_of_vsr_from_both_files_of_coco(tmp_path: Path) -> None:
    path = coco(tmp_path, [{**CAT, "image_id": 140}, {**BED, "image_id": 140}])
    path.write_text(path.read_text().replace("000000000140", "000000000002"))  # VSR's pictures are 0 to 4
    (tmp_path / "train").mkdir()
    train = coco(tmp_path / "train", [CAT, BED])
    train.write_text(train.read_text().replace("000000000139", "000000000003"))
    source = opened(f"coco:{path},{train}", "vsr")
    assert source.of(asked("vsr", 4)).boxes == source.of(asked("vsr", 6)).boxes
    assert [box.name for box in source.of(asked("vsr", 4)).boxes] == ["cat", "bed"]
    assert source.of(asked("vsr", 0)).reason is Reason.UNLABELLED


def vg_object(names: list[str], *box: float) -> dict[str, Any]:
    x, y, w, h = box
    return {"synsets": ["cat.n.01"], "h": h, "object_id": 1058498, "merged_object_ids": [], "names": names, "w": w,
            "y": y, "x": x}  # fmt: skip


@pytest.mark.parametrize("image_id", ["image_id", "id"])  # of version 1.2, and 1.0
def test_boxes_of_visual_genome(tmp_path: Path, image_id: str) -> None:
    cats = [vg_object(["cat", "kitten"], 1, 2, 6, 5), vg_object(["cats"], 12, 2, 3, 3), vg_object(["dog"], 0, 0, 9, 9)]
    url = "https://cs.stanford.edu/people/rak248/VG_100K_2/139.jpg"
    pictures = [
        {image_id: 139, "objects": [*cats, vg_object(["bed"], -1, 4, 26, 15)], "image_url": url},
        {image_id: 140, "objects": [*cats, vg_object(["bed"], 4, 4, 26, 14)], "image_url": url},
    ]
    (tmp_path / "objects.json").write_text(json.dumps(pictures))
    source = opened(f"vg:{tmp_path}/objects.json", "whatsup_vg_two")
    found = source.of(asked("vg_two", 0)).boxes
    assert found == (Box("cats", 1, 2, 7, 7), Box("cats", 12, 2, 15, 5), Box("bed", 0, 4, 24, 18)), (
        "every cat, because the question does not say which; the bed's box is cut where it sticks out by one pixel"
    )
    outside = source.of(asked("vg_two", 2))
    assert outside == Found(reason=Reason.OUTSIDE, detail="'bed' from 4, 4 to 30, 18")


def yolo(folder: Path, files: dict[str, str], names: str = "cat\nbed\n") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "classes.txt").write_text(names)
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


LINES = "0 0.25 0.25 0.25 0.5 0.91\n1 0.5 0.5 1 1\n"
CAT_BED = (Box("cats", 3, 0, 9, 9), Box("bed", 0, 0, 24, 18))


def test_label_files_are_called_by_the_pictures_names(tmp_path: Path) -> None:
    folder = yolo(tmp_path, {"000000000139.txt": LINES, "000000000140.txt": "", "7.txt": LINES, "8.txt": LINES})
    source, left_out = opened(f"yolo:{folder}", "whatsup_coco_two"), LeftOut()
    assert source.of(asked("coco_two", 0)) == Found(CAT_BED)
    for row in range(6):
        left_out.add(row, source.of(asked("coco_two", row)))
    assert left_out.sentences() == [
        "2 of 6 rows are left out: an object of its question has no box (row 2: 'cats'; row 3: 'cats')",
        "2 of 6 rows are left out: its picture has no boxes (row 4: '000000000141'; row 5: '000000000141')",
    ]
    assert source.unused() == "2 of 4 label files belong to no row (7, 8)"


def test_else_by_a_hash_or_by_the_rows_number_in_the_whole_table(tmp_path: Path) -> None:
    image_id = load_table("coco_two")[2]["image_id"]
    by_hash = opened(f"yolo:{yolo(tmp_path / 'a', {f'{image_id}.txt': LINES})}", "whatsup_coco_two")
    assert by_hash.of(asked("coco_two", 3)).boxes == CAT_BED
    by_number = opened(f"yolo:{yolo(tmp_path / 'b', {'0.txt': LINES, '5.txt': LINES})}", "whatsup_coco_two_test")
    found = [by_number.of(asked("coco_two", row)) for row in range(6)]
    assert [each.reason for each in found] == [None, None, Reason.UNLABELLED, Reason.UNLABELLED, None, None], (
        "rows 0 and 1 have the same picture, and so have 4 and 5"
    )


def test_a_task_of_others_is_matched_by_its_image_id_or_by_its_documents(tmp_path: Path) -> None:
    folder = yolo(tmp_path, {"0.txt": LINES, "1.txt": LINES})
    question, sizes = "What is the cat doing on this Bed?", ((24, 18),)
    source = opened(f"yolo:{folder}", "gqa", rows=2)
    found = source.of(Asked(1, question, None, sizes))
    assert found.boxes == (Box("cat", 3, 0, 9, 9), Box("bed", 0, 0, 24, 18))
    assert source.of(Asked(0, question, "1.jpg", sizes)).boxes == found.boxes
    assert source.of(Asked(0, question, "n1", sizes)).reason is Reason.UNLABELLED
    assert source.of(Asked(0, "How many dogs are there?", "1", sizes)).reason is Reason.NO_OBJECT
    assert source.of(Asked(0, question, "1", sizes * 2)) == Found(reason=Reason.PICTURES, detail="it has 2")
    unknown = opened(f"yolo:{folder}", "gqa", rows=1)
    assert unknown.of(Asked(0, question, None, sizes)).reason is Reason.UNKNOWN, "there is no row 1: these are no rows"


def test_the_classes_of_a_yaml_file(tmp_path: Path) -> None:
    folder = yolo(tmp_path / "labels", {"0.txt": LINES})
    for text in ("names: [potted plant, Bed]", "nc: 2\nnames: {0: potted_plant, 1: Bed}"):
        (tmp_path / "data.yaml").write_text(text)
        source = opened(f"yolo:{folder},{tmp_path}/data.yaml", "mine", rows=1)
        question = "Where is the potted plant in relation to the bed?"
        assert [box.name for box in source.of(Asked(0, question, None, ((8, 8),))).boxes] == ["potted plant", "bed"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("0 0.5 0.5", "a.txt, line 2: it has 3 fields, not 5 or 6. A line is: class x y width height"),
        ("0 0.1 0.1 0.2 0.1 0.2 0.2", "it has 7 fields, not 5 or 6; outlines are not boxes"),
        ("2 0.5 0.5 0.1 0.1", "its class is '2', but the classes are 0 (cat), 1 (bed)"),
        ("cat 0.5 0.5 0.1 0.1", "its class is 'cat'"),
        ("0 0.5 0.5 12 0.1", "one of 0.5 0.5 12 0.1 is not between 0 and 1. Divide pixels by the picture's size"),
        ("0 0.5 -0.5 0.1 0.1", "is not between 0 and 1"),
        ("0 0.5 nan 0.1 0.1", "'nan' is not a number"),
        ("0 0.5 0.5 0 0.1", "its box is 0 wide and 0.1 high, which is no area"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, line: str, said: str) -> None:
    folder = yolo(tmp_path, {"a.txt": f"0 0.5 0.5 0.1 0.1\n{line}\n"})
    with pytest.raises(AttentionError, match=re.escape(said)):
        open_source(f"yolo:{folder}", "mine")


def test_a_box_over_the_edge_is_left_out_and_counted(tmp_path: Path) -> None:
    source = opened(f"yolo:{yolo(tmp_path, {'0.txt': '0 0.9 0.5 0.5 0.2'})}", "mine", rows=1)
    found = source.of(Asked(0, "Where is the cat in the photo?", None, ((100, 50),)))
    assert (found.boxes, found.reason) == ((), Reason.OUTSIDE)


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(LINES)
    folder = yolo(tmp_path / "labels", {"0.txt": LINES})
    (folder / "1.txt").symlink_to(tmp_path / "secret")
    with pytest.raises(AttentionError, match=r"1\.txt is a link that leads out of the folder"):
        open_source(f"yolo:{folder}", "mine")


def written(name: str, content: str) -> Callable[[Path], str]:
    def write(folder: Path) -> str:
        (folder / name).write_text(content)
        return f"{folder}/{name}"

    return write


VALUES = {
    "coc:a.json": "--boxes 'coc:a.json' is none of demo; coco:instances_val2017.json",
    "dem": "is none of .* Did you mean demo?",
    "coco:": "is none of",
    "demo:1": "is none of",
    "vg:nowhere.json": "there is no file nowhere.json",
    "yolo:nowhere": "there is no folder nowhere",
    "yolo:.,nowhere": "there is no file nowhere",
    "demo": "these are the boxes of the task whatsup_demo, not of whatsup_coco_two",
    "detector:a/b,2": "the lowest score '2' is not a number from 0 to below 1",
    "detector:./nowhere": "detector:./nowhere cannot be loaded .* Give the name or folder of one",
}


@pytest.mark.parametrize(("value", "said"), VALUES.items(), ids=VALUES)
def test_a_wrong_value_names_the_way_out(value: str, said: str) -> None:
    with pytest.raises(AttentionError, match=said):
        open_source(value, "whatsup_coco_two")


def test_no_boxes_are_wanted() -> None:
    assert open_source("none", "whatsup_demo") is None and open_source(None, "vsr") is None


COCO_FILE = {"images": [{"id": 1, "file_name": "1.jpg", "width": 4, "height": 4}],
             "annotations": [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1]}],
             "categories": [{"id": 1, "name": "cat"}]}  # fmt: skip
WRONG = {
    "captions": ("coco", {**COCO_FILE, "annotations": [{"image_id": 1, "id": 2, "caption": "A cat"}]}, "has no 'bbox'"),
    "no categories": ("coco", {**COCO_FILE, "categories": []}, "it has no categories. It is an object with"),
    "a list": ("coco", [1], "an item of its None cannot be used|it has no images"),
    "a box of texts": ("coco", {**COCO_FILE, "annotations": [{"bbox": ["1", 2, 3, 4]}]}, "is not 4 numbers"),
    "an unknown picture": ("coco", {**COCO_FILE, "images": [{**COCO_FILE["images"][0], "id": 2}]}, "is not listed"),
    "not JSON": ("coco", "<html>", "is not a complete JSON file"),
    "cut short": ("coco", json.dumps(COCO_FILE)[:-30], "is not a complete JSON file"),
    "goes on": ("vg", "[][]", "there is more after its end"),
    "an object": ("vg", {"a": 1}, "the file is not a list"),
    "no names": ("vg", [{"image_id": 1, "objects": [{"x": 1, "y": 1, "w": 1, "h": 1}]}], "it has no 'names'"),
    "of other pictures": ("vg", [{"image_id": 7, "objects": []}], r"boxes of 1 pictures \(7, …\), but of none in the"),
}


@pytest.mark.parametrize(("kind", "content", "said"), WRONG.values(), ids=WRONG)
def test_a_wrong_file_is_refused(tmp_path: Path, kind: str, content: Any, said: str) -> None:
    text = content if isinstance(content, str) else json.dumps(content)
    with pytest.raises(AttentionError, match=said):
        open_source(f"{kind}:{written('a.json', text)(tmp_path)}", "whatsup_vg_two")


plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
values = st.recursive(plain, lambda more: st.lists(more) | st.dictionaries(st.text(), more), max_leaves=8)


@settings(deadline=None)
@given(st.lists(values) | st.dictionaries(st.text(), values), st.integers(1, 9), st.sampled_from([None, 1]))
def test_a_file_read_in_pieces_is_the_whole_file(content: Any, chunk: int, indent: int | None) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr("adaptvis_plugin.attention.boxes.stream.CHUNK", chunk)
        path = Path(folder, "a.json")
        path.write_text(json.dumps(content, indent=indent, ensure_ascii=False), "utf-8")
        items = [*read_items(path)]
    if isinstance(content, list):
        assert items == [(None, item) for item in content]
    else:
        whole = {key: value if isinstance(value, list) else [value] for key, value in content.items()}
        assert items == [(key, item) for key, value in whole.items() for item in value]


def test_no_label_file_of_another_folder(tmp_path: Path) -> None:
    with pytest.raises(
        AttentionError, match="but of none in the table coco_two, whose pictures are called '0000000001"
    ):
        open_source(f"yolo:{yolo(tmp_path, {'holiday.txt': LINES})}", "whatsup_coco_two")
    with pytest.raises(AttentionError, match=r"has no label files \(PICTURE.txt\)"):
        open_source(f"yolo:{yolo(tmp_path / 'empty', {})}", "whatsup_coco_two")
    (tmp_path / "empty" / "classes.txt").unlink()
    with pytest.raises(AttentionError, match="has no file with the names of its classes"):
        open_source(f"yolo:{tmp_path / 'empty'}", "whatsup_coco_two")


inside = st.floats(0.01, 1)


@settings(deadline=None)
@given(st.integers(1, 4000), st.integers(1, 4000), st.tuples(inside, inside, inside, inside))
def test_a_share_of_the_picture_is_that_share_of_its_pixels(
    width: int, height: int, shares: tuple[float, float, float, float]
) -> None:
    x, y, w, h = shares
    w, h = 2 * w * min(x, 1 - x), 2 * h * min(y, 1 - y)  # so that the box is inside
    labels = Labels(relative=True)
    labels.add(labels.picture("0"), "cat", x - w / 2, y - h / 2, w, h)
    source = opened_with(labels)
    boxes = source.of(Asked(0, "Where is the cat in the photo?", "0", ((width, height),))).boxes
    if w > 1e-5 and h > 1e-5:
        [box] = boxes
        assert (box.left + box.right) / 2 == pytest.approx(x * width, abs=1e-3 * width)
        assert box.bottom - box.top == pytest.approx(h * height, abs=1e-3 * height)
        assert 0 <= box.left < box.right <= width and 0 <= box.top < box.bottom <= height


def opened_with(labels: Labels) -> Labelled:
    return Labelled("these", labels, Pictures(labels, "these", None, None, False))


@needs_reference
def test_the_objects_of_every_question_of_the_authors_are_found() -> None:
    for file in (REFERENCE / "prompts").glob("*.jsonl"):
        for line in file.read_text().splitlines():
            question = json.loads(line)["question"]
            objects = named_objects(question)
            assert len(objects) == (1 if "one_obj" in file.name else 2), question
            assert all(f"the {name}" in question for name in objects)


@needs_reference
@pytest.mark.parametrize("told", [True, False])
def test_the_objects_of_every_caption_of_vsr_are_found(told: bool) -> None:
    for line in (REFERENCE / "vsr" / "test.jsonl").read_text().splitlines():
        row = json.loads(line)
        subject = row["subj"].replace("andbag", "handbag").replace("hhandbag", "handbag")  # as the file has it
        found = named_objects(vsr.prompt(row["caption"]), row["relation"] if told else None)
        assert tuple(name.lower() for name in found) == (subject, row["obj"])


@pytest.mark.parametrize(
    ("question", "objects"),
    [
        ("USER: <image>\nWhere are  the black trees in relation\nto the fence? \nAnswer with left or on. ASSISTANT:",
         ("black trees", "fence")),
        ("Where is the bottle of mustard in the photo?", ("bottle of mustard",)),
        ("Is the cat to the left of the hot dog?", ("cat", "hot dog")),
        ("What is on the table in the kitchen?", ()),
        ("How many cats are there?", ()),
    ],
)  # fmt: skip
def test_objects_of_a_question(question: str, objects: tuple[str, ...]) -> None:
    assert named_objects(question) == objects


@pytest.mark.parametrize(
    ("name", "labels", "alike"),
    [
        ("TV", {"tv", "tvs", "bed"}, {"tv", "tvs"}),
        ("hair dryer", {"hair drier"}, {"hair drier"}),
        ("mobile phone", {"cell_phone"}, {"cell_phone"}),
        ("green trees", {"tree", "green bag"}, {"tree"}),
        ("hot dog", {"dog"}, set()),
        ("black dog", {"black dog", "dog"}, {"black dog"}),
        ("knives", {"knife"}, {"knife"}),
        ("glasses", {"glass"}, set()),
        ("people", {"person"}, {"person"}),
    ],
)
def test_labels_that_mean_an_object(name: str, labels: set[str], alike: set[str]) -> None:
    assert named_like(name, labels) == alike


def test_objects_in_a_question_of_any_form() -> None:
    labels = ["dog", "hot dog", "left", "red car", "bus"]
    assert words_in("Are the buses behind the Hot Dog? Answer with left or right.", labels) == ("buses", "hot dog")
