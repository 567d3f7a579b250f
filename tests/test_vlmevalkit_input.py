"""What the VLMEvalKit adapter refuses, what it reports, and what it leaves alone."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from adaptvis_plugin.comparison.board import read_board
from adaptvis_plugin.comparison.reading import read_runs
from tests.forked import run
from tests.test_vlmevalkit import environment as environment  # the fixture

# Importing VLMEvalKit changes the process it happens in, so every check runs in one of its own.
SESSION = """
import contextlib, functools, io, json, os, sys
from adaptvis_plugin.cli import app

def command(*arguments):
    "The exit status and what was printed as an error."
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors):
        try:
            status = app(["vlmeval", *arguments], standalone_mode=False)
        except SystemExit as stop:
            status = stop.code
    return [status or 0, errors.getvalue()]

found, said = {}, sys.argv[1]
def say(name, value):
    found[name] = value
    with open(said, "w") as file:
        json.dump(found, file)
"""


def session(code: str, environment: dict[str, str], folder: Path, *arguments: str) -> dict[str, Any]:
    """Run Python in a process of its own; what it said, by name."""
    said = folder / "said.json"
    command = [sys.executable, "-c", SESSION + code, str(said), *arguments]
    done = run(command, environment, folder)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found: dict[str, Any] = json.loads(said.read_text())
    return found


@pytest.fixture(scope="module")
def refused(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    code = """
data, model = ["--data", "WhatsUp_Demo"], ["--model", "demo_scalingvis"]
os.environ["VLMEVALKIT_ROOT"] = "/nowhere"
say("checkout", command(*data, *model))
del os.environ["VLMEVALKIT_ROOT"]
say("data", command("--data", "WhatsUp_Controled_A", *model))
say("model", command(*data, "--model", "llava_v1.5_7b_adaptivis"))
say("nothing", command(*data))
say("argument", command(*data, *model, "--model-args", "alhpa=0.5"))
say("value", command(*data, *model, "--model-args", "alpha=-1"))
say("truth", command(*data, *model, "--model-args", "trust_remote_code=no"))
say("device", command(*data, *model, "--model-args", "device=gpu"))
say("dtype", command(*data, *model, "--model-args", "dtype=int8"))
say("folder", command(*data, *model, "--model-args", "pretrained=/nowhere/llava"))
say("count", command(*data, *model, "--model-args", "max_new_tokens=0"))
say("form", command(*data, *model, "--model-args", "alpha"))
say("stray", command(*data, "--model", "llava_v1.5_7b", "--model-args", "alpha=1"))
say("settings", command("--data", "MMBench_DEV_EN", *model))
say("checkpoint", command(*data, "--model", "vlm_baseline"))
say("config", command("--config", "absent.json"))
with open("config.json", "w") as file:
    json.dump({"models": {}}, file)
say("config form", command("--config", "config.json"))
with open("config.json", "w") as file:
    json.dump({"model": {"mine": {"class": "SteeredVML"}}, "data": {}}, file)
say("class", command("--config", "config.json"))
with open("config.json", "w") as file:
    json.dump({"model": {}, "data": {"mine": {"class": "WhatsupDataSet", "dataset": "WhatsUp_Demo"}}}, file)
say("data class", command("--config", "config.json"))

from vlmeval.dataset import SUPPORTED_DATASETS
from adaptvis_plugin.vlmevalkit import register
from adaptvis_plugin.vlmevalkit.names import own_data_sets
before = len(SUPPORTED_DATASETS)
say("register", [str(register()), len(SUPPORTED_DATASETS) - before])
pairs = [[a, b] for a in own_data_sets() for b in SUPPORTED_DATASETS if a != b]
from adaptvis_plugin.models.runner import Runner
from adaptvis_plugin.vlmevalkit.model import SteeredVLM
Runner.answer = lambda *_, max_new_tokens: max_new_tokens
model = SteeredVLM(method="baseline", pretrained="demo")
say("tokens", {name: model.answer([], name) for name in own_data_sets()})
say("clash", [[a, b] for a, b in pairs if a.startswith(b) or b.startswith(a)])
"""
    return session(code, environment, tmp_path_factory.mktemp("refused"))


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("checkout", "VLMEVALKIT_ROOT=/nowhere: not a checkout of VLMEvalKit"),
        ("data", "WhatsUp_Controled_A is unknown. Did you mean WhatsUp_Controlled_A or"),
        ("model", "llava_v1.5_7b_adaptivis is unknown. Did you mean llava_v1.5_7b_adaptvis or"),
        ("nothing", "give --data and --model"),
        (
            "argument",
            "unknown model_args alhpa=0.5; the hyper-parameters of scalingvis are: alpha, layers, heads. Did you mean "
            "alpha?",
        ),
        ("value", "alpha=-1: a coefficient"),
        ("truth", "trust_remote_code='no': give true or false"),
        ("device", "device='gpu': not a device of torch; give cpu, cuda or cuda:N"),
        ("dtype", "dtype='int8': give one of auto, float32"),
        ("folder", "pretrained=/nowhere/llava: there is no such folder"),
        ("count", "max_new_tokens=0: give a whole number of at least 1"),
        ("form", "'alpha' is not NAME=VALUE"),
        ("stray", "--model-args is only for this plugin's models, not for llava_v1.5_7b"),
        ("settings", "the preset has no settings for it, so give alpha"),
        ("checkpoint", "give the checkpoint: --model-args pretrained="),
        ("config", "absent.json"),
        ("config form", "--config config.json must have the form"),
        ("class", "SteeredVML is unknown. Did you mean SteeredVLM?"),
        ("data class", "WhatsupDataSet is unknown. Did you mean WhatsUpDataset?"),
    ],
)
def test_bad_input_ends_before_anything_is_loaded(refused: dict[str, Any], case: str, message: str) -> None:
    status, errors = refused[case]
    assert status == 2
    assert message in errors.splitlines()[-1]


def test_registering_again_changes_nothing(refused: dict[str, Any]) -> None:
    found, added = refused["register"]
    assert "VLMEvalKit ms-vlmeval" in found and added == 0


def test_a_model_may_give_the_longest_answer_of_each_data_set(refused: dict[str, Any]) -> None:
    """`test_tasks` holds lmms-eval to the same limits."""
    from adaptvis_plugin.vlmevalkit.names import own_data_sets

    assert refused["tokens"] == {name: own.max_new_tokens for name, own in own_data_sets().items()}
    assert refused["tokens"]["WhatsUp_Controlled_A"] == 100, "the authors' limit"


def test_no_name_is_caught_by_a_special_case_of_the_framework(refused: dict[str, Any]) -> None:
    from adaptvis_plugin.vlmevalkit.names import own_data_sets

    assert refused["clash"] == []
    assert not [
        name
        for name in own_data_sets()
        for part in ("mmbench", "ccbench", "circular", "mmcr", "mmt")
        if part in name.lower()
    ]


def test_models_and_data_sets_mix_with_the_frameworks_own(environment: dict[str, str], tmp_path: Path) -> None:
    """A model of somebody else on our data, ours on other data, a `--config` file, and runs that fail."""
    code = """
import base64
from adaptvis_plugin.data import load_table
from adaptvis_plugin.vlmevalkit import register
register()
from vlmeval.config import supported_VLM
from vlmeval.vlm import BaseModel

class Left(BaseModel):
    "A model of a user's own, which knows nothing of this plugin."
    def generate_inner(self, message, dataset=None):
        (image,), (text,) = [[item["value"] for item in message if item["type"] == kind] for kind in ("image", "text")]
        questions.append([image, text])
        return "Left, behind it"  # the demo does not offer "behind"

questions = []
supported_VLM["left"] = functools.partial(Left)
table = load_table("demo")
say("own", command("--data", "WhatsUp_Demo", "--model", "left", "--limit", "4"))
say("questions", [text for _, text in questions] == table["question"][:4])
stored = table.cast_column("image", __import__("datasets").Image(decode=False))[0]["image"]["bytes"]
say("bytes", open(questions[0][0], "rb").read() == stored)

class Yes(Left):
    def generate_inner(self, message, dataset=None):
        return "Yes" if dataset == "VSR_QA" else "None"

supported_VLM["yes"] = functools.partial(Yes)
from adaptvis_plugin.data.cache import Provenance, write_table
rows = [{**row, "set_id": None, "pair_id": None} for row in table.select(range(4))]
write_table(rows, Provenance("coco_one", 4, "a test", "template", (), None))
rows = [{**row, "answer": "No" if row["id"] else "Yes", "relation": "left of"} for row in rows]
write_table(rows, Provenance("vsr", 4, "a test", "template", (), None))
say("vsr", command("--data", "VSR_QA", "WhatsUp_COCO_One", "--model", "yes"))

with open(os.path.join(os.environ["LMUData"], "Stock.tsv"), "w") as file:
    print("index", "question", "A", "B", "answer", "image", sep="\\t", file=file)
    print(0, "Is it?", "Yes", "No", "A", base64.b64encode(stored).decode(), sep="\\t", file=file)
with open(os.path.join(os.environ["LMUData"], "Broken.tsv"), "w") as file:
    print("index", "question", "A", "B", "answer", "image_path", sep="\\t", file=file)
    print(0, "Is it?", "Yes", "No", "A", "/nowhere.png", sep="\\t", file=file)
ours = ["--model", "demo_scalingvis", "--model-args", "alpha=0.5", "--judge", "exact_matching"]
say("stock", command("--data", "Stock", *ours))
say("broken", command("--data", "Broken", "Stock", *ours))
say("other", command("--data", "Stock", "--model", "demo_scalingvis", "--model-args", "alpha=0.8"))
say("layers", command("--data", "Stock", "--model", "demo_scalingvis", "--model-args", "alpha=0.5,layers=1-2"))
few = ["--data", "WhatsUp_Demo", "--limit", "3"]
say("constant", command(*few, "--model", "demo_constant", "--model-args", "constant=1.0"))
say("lacking", command(*few, "--model", "demo_scalingvis", "--model-args", "layers=2-9", "--work-dir", "lacking"))
with open("config.json", "w") as file:
    model = {"class": "SteeredVLM", "method": "scalingvis", "pretrained": "demo", "alpha": 0.5, "batch_size": 2}
    model["heads"] = ["L2H3", "L1H0"]
    data = {"WhatsUp_Demo": {"class": "WhatsUpDataset", "dataset": "WhatsUp_Demo"}}
    json.dump({"model": {"mine": model}, "data": data}, file)
say("config", command("--config", "config.json", "--limit", "3"))
"""
    found = session(code, environment, tmp_path)
    outputs = tmp_path / "outputs"
    assert found["own"][0] == 0 and found["questions"] is True and found["bytes"] is True
    left = json.loads((outputs / "left" / "status.json").read_text())["datasets"]["WhatsUp_Demo"]["metrics"]
    assert (left["Overall"], left["strict_acc"], left["rel_left"], left["rel_on"]) == (25, 25, 100, 0)
    assert found["vsr"][0] == 0
    yes = json.loads((outputs / "yes" / "status.json").read_text())["datasets"]
    vsr, coco = yes["VSR_QA"]["metrics"], yes["WhatsUp_COCO_One"]["metrics"]
    assert (vsr["Overall"], vsr["standard_f1"], vsr["authors_f1"]) == (25, pytest.approx(40), 0)
    assert vsr["rel_left of"] == vsr["cat_projective"] == 25
    # The answer "None" is read back as text, and by the authors' rule it holds "on".
    assert (coco["Overall"], coco["rel_on"], coco["strict_acc"]) == (25, 100, 0) and "pair_acc" not in coco
    assert found["stock"][0] == 0 and (outputs / "demo_scalingvis" / "demo_scalingvis_Stock_trace.jsonl").exists()
    status, errors = found["broken"]
    assert status == 1
    assert "failed: demo_scalingvis on Broken: " in errors and "/nowhere.png" in errors and "on Stock" not in errors
    board = read_board(outputs / "demo_scalingvis")
    assert board.metrics == {"Stock": "split=none|Overall"} and board.lines[0].scores == {"Stock": 0}
    assert any("Broken, index 0" in line and "/nowhere.png" in line for line in board.left_out())
    [stock], _ = read_runs([outputs / "demo_scalingvis"])
    assert (stock.task, stock.scoring, stock.rows["scores"].tolist()) == ("Stock", None, [{"hit": 0.0}])
    status, errors = found["other"]
    assert status == 2
    assert "were made with alpha=0.5; this run asks for alpha=0.8. Use another --work-dir" in errors
    status, errors = found["layers"]
    assert status == 2 and "were made with layers=None; this run asks for layers=1-2. Use another" in errors
    status, errors = found["lacking"]
    assert status == 1 and "layer 4: the model has attention in the layers 0 to 3" in errors
    assert not (tmp_path / "lacking" / "demo_scalingvis" / "demo_scalingvis_WhatsUp_Demo_trace.jsonl").exists()
    assert found["constant"][0] == found["config"][0] == 0
    [constant], _ = read_runs([outputs / "demo_constant"])
    assert (constant.described, constant.plain) == ("constant 1", False)
    [mine], _ = read_runs([outputs / "mine"])
    assert mine.settings == {"alpha": 0.5, "heads": "L1H0+L2H3"} and mine.described == "scalingvis 0.5/L1H0+L2H3"
    assert len((outputs / "mine" / "mine_WhatsUp_Demo_trace.jsonl").read_text().splitlines()) == 3


FAILING = """
import shutil
import safetensors.torch, torch
from adaptvis_plugin.data import load_table
from adaptvis_plugin.paths import DEMO_MODEL
from adaptvis_plugin.vlmevalkit import register
register()
from vlmeval.vlm import SteeredVLM

picture = os.path.join(os.getcwd(), "picture.png")
load_table("demo")[0]["image"].save(picture)
paper = SteeredVLM(method="scalingvis", pretrained="demo", prompt="paper", alpha=0.5)
image, text = {"type": "image", "value": picture}, {"type": "text", "value": "Is it?"}
say("plain", paper.prompt([image, text]).text)
say("theirs", paper.prompt([image, {**text, "prompt": "Describe the picture."}]).text)
try:
    paper.prompt([image, image, text], "MMMU, index 7")
except ValueError as error:
    say("images", str(error))

few = ["--limit", "2", "--work-dir", "theirs"]
say("unknown model", command("--data", "WhatsUp_Demo", "--model", "llava_v9", "demo_baseline", *few))
say("unknown data", command("--data", "Nowhere", "WhatsUp_Demo", "--model", "demo_baseline", *few))
def configured(model, data):
    with open("config.json", "w") as file:
        json.dump({"model": {"mine": model}, "data": {"theirs": data}}, file)
    return command("--config", "config.json", *few)
ours = {"class": "SteeredVLM", "method": "baseline", "pretrained": "demo"}
demo = {"class": "WhatsUpDataset", "dataset": "WhatsUp_Demo"}
say("unknown class", configured({"class": "Nothing"}, demo))
say("unknown data class", configured(ours, {"class": "Nothing", "dataset": "WhatsUp_Demo"}))
say("no class", configured(ours, {"dataset": "WhatsUp_Demo"}))

shutil.copytree(DEMO_MODEL, "mine")
def checkpoint(change):
    weights = safetensors.torch.load_file(DEMO_MODEL / "model.safetensors")
    (embedding,) = [name for name in weights if name.endswith("embed_tokens.weight")]
    weights[embedding][433] *= change
    safetensors.torch.save_file(weights, "mine/model.safetensors", {"format": "pt"})

# The word is `chair`, so that the first rows are answered.
run = ["--data", "WhatsUp_Demo", "--model", "demo_baseline", "--limit", "60"]
run += ["--model-args", "batch_size=4,pretrained=" + os.path.join(os.getcwd(), "mine")]
say("first", [row["id"] for row in load_table("demo") if "chair" in row["question"].split("Answer")[0]][0])
checkpoint(torch.nan)
say("nan", command(*run))
checkpoint(-1)
say("other", command(*run))
"""


@pytest.fixture(scope="module")
def failing(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    folder = tmp_path_factory.mktemp("failing")
    return session(FAILING, environment, folder), folder


@pytest.mark.parametrize(
    ("case", "expected", "message"),
    [
        ("unknown model", 1, "failed: llava_v9 on WhatsUp_Demo: 'llava_v9'"),
        ("unknown data", 1, "failed: demo_baseline on Nowhere: invalid_dataset"),
        ("unknown class", 2, "error: Class Nothing is not supported in `vlmeval.api`"),
        ("unknown data class", 1, "failed: mine on theirs: Class Nothing is not supported in `vlmeval.dataset`"),
        ("no class", 1, "failed: mine on theirs: no message; the traceback is in the log"),
    ],
)
def test_what_the_framework_does_not_know_is_a_failure(
    failing: tuple[dict[str, Any], Path], case: str, expected: int, message: str
) -> None:
    """VLMEvalKit itself logs these, goes on, and exits with status 0."""
    status, errors = failing[0][case]
    assert status == expected
    assert message in errors.splitlines()[-1], "only this failed"


def test_a_key_prompt_in_other_peoples_messages_says_nothing(failing: tuple[dict[str, Any], Path]) -> None:
    found, _ = failing
    assert found["theirs"] == found["plain"] == "<image>\nUSER: Is it?\nASSISTANT:"


def test_a_question_the_papers_prompt_does_not_fit_is_named(failing: tuple[dict[str, Any], Path]) -> None:
    expected = (
        "MMMU, index 7: the paper's prompt is for one image and a question after it, and this one holds 2 images; "
    )
    assert failing[0]["images"] == f"{expected}use prompt=chat"


def test_logits_that_are_not_finite_end_the_run_and_name_the_row(failing: tuple[dict[str, Any], Path]) -> None:
    found, folder = failing
    status, errors = found["nan"]
    assert status == 1
    assert f"failed: demo_baseline on WhatsUp_Demo: WhatsUp_Demo, index {found['first']}" in errors
    assert "not finite" in errors and "Likely cause: the weights hold NaN" in errors
    trace = (folder / "outputs" / "demo_baseline" / "demo_baseline_WhatsUp_Demo_trace.jsonl").read_text().splitlines()
    assert len(trace) == found["first"] // 4 * 4 > 0, "what was answered before is kept"
    assert not list(folder.glob("outputs/demo_baseline/**/*_acc.csv")), "nothing is scored"


def test_answers_of_another_checkpoint_in_the_same_folder_are_refused(failing: tuple[dict[str, Any], Path]) -> None:
    status, errors = failing[0]["other"]
    assert status == 2
    assert "the existing answers were made with checkpoint=" in errors and "Use another --work-dir" in errors
