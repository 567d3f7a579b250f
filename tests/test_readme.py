"""Every command and name in the README is one that exists, and every command is run as it stands.

A shell starts the first command of each kind, as a user does. What follows of a kind is forked (see `tests.forked`).
"""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import lmms_eval.models  # noqa: F401  # this is what loads plugins
import pytest
from PIL import Image

from adaptvis_plugin.cli.tasks import task_descriptions
from adaptvis_plugin.lmms_eval.plugin import FAMILIES, model_names
from adaptvis_plugin.models.arguments import ModelArguments
from adaptvis_plugin.models.validation import parse_value
from adaptvis_plugin.traces import read_traces
from adaptvis_plugin.tuning.lines import Line
from adaptvis_plugin.tuning.tune import judge_traces, study_all
from adaptvis_plugin.vlmevalkit.names import own_data_sets, registered_models
from tests import forked
from tests.data_helpers import official, serve, sources
from tests.test_lmms_eval import evaluate, manager

ROOT = Path(__file__).resolve().parents[1]
RECORDED = ROOT.parent / "shared" / "reference" / "traces"
README = (ROOT / "README.md").read_text(encoding="utf-8")
OWN_TASK = (ROOT / "tasks" / "whatsup" / "README.md").read_text(encoding="utf-8")


def blocks(text: str, kind: str) -> list[str]:
    return [re.sub(r"^ {3}", "", block, flags=re.M) for block in re.findall(rf"```{kind}\n(.*?)```", text, re.S)]


def lines(block: str) -> list[str]:
    return [line.strip() for line in block.splitlines() if line.strip()]


LINES = [line for block in blocks(README, "bash") for line in lines(block)]
(SESSION,) = [lines(block) for block in blocks(README, "bash") if "adaptvis tune" in block]
"""Commands of which each needs what the one before it wrote."""


@dataclass(frozen=True)
class Elsewhere:
    """A command that cannot get to its end here: why not, what it must say by then, and what is run in its place."""

    why: str
    reaches: str
    instead: str | None = None


def kind(line: str) -> str:
    """Return the program of a line, and of `adaptvis` its command too."""
    return " ".join(line.split()[: 1 + line.startswith("adaptvis")])


STARTED_ELSEWHERE = {"lmms-eval", "adaptvis sweep", "adaptvis vlmeval"}
"""By `test_command_line`, `test_sweep` and `test_new_data_set`, as a user starts them."""
FORKED = {
    line
    for number, line in enumerate(LINES)
    if line.startswith(("adaptvis", "lmms-eval"))
    and not re.search(r"\$|adaptvis data", line)
    and (kind(line) in STARTED_ELSEWHERE or kind(line) in map(kind, LINES[:number]))
}


def pip(extra: str) -> Elsewhere:
    dry = f'pip install --dry-run --no-deps --no-index --no-build-isolation ".[{extra}]"'
    return Elsewhere("it would change the environment it runs in", "Would install adaptvis-plugin", dry)


def hub(checkpoint: str) -> Elsewhere:
    return Elsewhere(
        "it fetches a checkpoint of many gigabytes", f"{checkpoint}.*is not a local folder, and it could not be fetched"
    )


ELSEWHERE = {
    "make demo": Elsewhere(
        "it sets up an environment; the suite runs the rest", "adaptvis demo", "make --dry-run demo"
    ),
    "make test": Elsewhere("it runs this suite", "python -m pytest", "make --dry-run test"),
    'pip install ".[lmms-eval]"': pip("lmms-eval"),
    'pip install ".[vlmevalkit]"': pip("vlmevalkit"),
    'pip install ".[vllm,lmms-eval]"': pip("vllm,lmms-eval"),
    "lmms-eval --model vllm_adaptvis": Elsewhere(
        "this environment has no vLLM; tests/vllm runs it", 'pip install "adaptvis-plugin.vllm."'
    ),
    "lmms-eval --model llava_adaptvis --tasks whatsup,vsr": hub("llava-hf/llava-1.5-7b-hf"),
    "lmms-eval --model vlm_scalingvis --model_args pretrained=llava-hf": hub("llava-hf/llava-v1.6-vicuna-7b-hf"),
    "adaptvis vlmeval --data WhatsUp_Controlled_A VSR_QA --model llava_v1.5_7b": hub("llava-hf/llava-1.5-7b-hf"),
}


def elsewhere(line: str) -> Elsewhere | None:
    return next((ELSEWHERE[start] for start in ELSEWHERE if line.startswith(start)), None)


@dataclass(frozen=True)
class Done:
    folder: Path
    status: int
    said: str


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """As a user has it who can reach the data, but no hub with checkpoints."""
    home = tmp_path_factory.mktemp("home")
    with serve() as site:
        site.fill()
        own = {"HOME": home, "ADAPTVIS_CACHE": home / "tables", "ADAPTVIS_SOURCES": sources(home, site.host)}
        yield {
            **os.environ,
            **{name: str(path) for name, path in own.items()},
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            **forked.IMPORTED,
            "HF_ENDPOINT": site.host.rstrip("/"),
            "COLUMNS": "200",
        }


def bash(code: str, folder: Path, environment: dict[str, str]) -> Done:
    if code in FORKED:
        ran = forked.run(shlex.split(code, comments=True), environment, folder)
    else:
        command = ["bash", "-euo", "pipefail", "-c", code]
        own = environment if "data prepare" not in code else {**environment, "HF_HUB_OFFLINE": "0"}
        ran = subprocess.run(command, cwd=folder, env=own, capture_output=True, text=True, timeout=600, check=False)
    return Done(folder, ran.returncode, ran.stdout + ran.stderr)


@pytest.fixture(scope="module")
def done(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Done]:
    """Every command, each in a folder of its own, but for those of the session."""

    def run_session() -> dict[str, Done]:
        folder = tmp_path_factory.mktemp("session")
        return {line: bash(line, folder, environment) for line in SESSION}

    def run(line: str) -> Done:
        other = elsewhere(line)
        if other and other.instead:
            return bash(other.instead, ROOT, environment)
        folder = tmp_path_factory.mktemp("here")
        if "FOLDER" in line:
            official(folder / "FOLDER")
        return bash(line, folder, environment)

    alone = [line for line in LINES if line not in SESSION]
    with ThreadPoolExecutor(2) as pool:
        session = pool.submit(run_session)
        return dict(zip(alone, pool.map(run, alone), strict=True)) | session.result()


@pytest.mark.parametrize("line", LINES)
def test_every_command_runs_as_it_stands(line: str, done: dict[str, Done]) -> None:
    """What cannot get to its end here gets as far as what is missing, and says so."""
    ran, other = done[line], elsewhere(line)
    if other:
        assert re.search(other.reaches, ran.said), (other.why, ran.said[-3000:])
        assert "does not provide the extra" not in ran.said
        return
    assert ran.status == 0, ran.said[-3000:]
    if "--output_path out" in line:  # the only sign of failure that lmms-eval gives
        assert len(list(ran.folder.glob("out/*/*_results.json"))) == 1, ran.said[-3000:]


def test_a_session_ends_with_a_report_and_a_board(done: dict[str, Done]) -> None:
    ran = done[SESSION[-1]]
    assert (ran.folder / "report" / "report.html").is_file() and (ran.folder / "my-model.yaml").is_file()
    compared = done[next(line for line in SESSION if line.startswith("adaptvis compare"))].said
    assert all(name in said for name in ("baseline", "calibrated") for said in (compared, ran.said))
    assert len(list(ran.folder.glob("runs/**/*_results.json"))) == 2


@pytest.mark.skipif(not RECORDED.is_dir(), reason="needs the recorded runs")
def test_the_table_of_recorded_answers_is_what_tune_finds() -> None:
    table = README.partition("### What it shows on recorded answers")[2]
    for name, file in (
        ("Controlled_A", "Controlled_Images_A"),
        ("COCO, two objects", "COCO_QA_two_obj"),
        ("VG, one object", "VG_QA_one_obj"),
    ):
        judged = judge_traces(read_traces([RECORDED / f"{file}.jsonl"]), None, shared=False, folds=5)
        (study,) = study_all(judged, folds=5, repeats=5)
        found = study.lines

        def figures(line: str, found: Mapping[str, Line] = found) -> str:
            value, (low, high) = found[line].estimate.value, found[line].estimate.interval
            return f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"

        plain, published, best = (
            f"{100 * found[line].on_all_rows['individual_acc']:.1f}"
            for line in ("plain", "published_adaptvis", "adaptvis")
        )
        row = [name, plain, published, best, *map(figures, ("adaptvis", "batch", "regression"))]
        assert f"| {' | '.join(row)} |" in table


def test_what_the_commands_show(done: dict[str, Done]) -> None:
    (listed,) = [ran.said for line, ran in done.items() if line.startswith("lmms-eval tasks")]
    (ours,) = [ran.said for line, ran in done.items() if line.startswith("adaptvis tasks")]
    for name, description in task_descriptions().items():
        assert f"  {name}\n" in listed and f"  {name}_val\n" in listed
        assert name in ours and description in ours
    assert f"Folder: {ROOT / 'tasks'}" in ours
    (status,) = [ran.said for line, ran in done.items() if line.startswith("adaptvis data status")]
    assert all(name in status for name in ("controlled_a", "vg_two", "vsr", "demo"))


def test_several_ranks_give_the_scores_of_one(done: dict[str, Done]) -> None:
    (line,) = [line for line in LINES if line.startswith("torchrun")]
    (results,) = done[line].folder.glob("out/*/*_results.json")
    (samples,) = done[line].folder.glob("out/*/*_samples_whatsup_demo_val.jsonl")
    rows = {row["doc_id"]: row["filtered_resps"] for row in map(json.loads, samples.read_text().splitlines())}
    one = evaluate("llava_scalingvis", ["whatsup_demo_val"], limit=None)
    assert rows == {row["doc_id"]: row["filtered_resps"][0] for row in one["samples"]["whatsup_demo_val"]}
    scores = json.loads(results.read_text())["results"]["whatsup_demo_val"]
    assert {name: scores[name] for name in scores if name.endswith("acc,none")} == {
        name: score for name, score in one["results"]["whatsup_demo_val"].items() if name.endswith("acc,none")
    }


def test_a_task_of_ones_own_by_the_steps_as_they_are_written(environment: dict[str, str], tmp_path: Path) -> None:
    """Each block of the steps, saved or run as the text says."""
    (rows,), (prepare, run), (task, preset) = (blocks(OWN_TASK, kind) for kind in ("json", "bash", "yaml"))
    for row in json.loads(rows):
        picture = tmp_path / "mine" / row["image_path"]
        picture.parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((128, 128), 30).save(picture)
    (tmp_path / "mine" / "rooms.json").write_text(rows)
    made = bash(prepare, tmp_path, environment)
    assert made.status == 0, made.said
    (tmp_path / "my_tasks" / "rooms.yaml").write_text(task)
    (tmp_path / "my_preset.yaml").write_text(preset)
    ran = forked.run(shlex.split(run), environment, tmp_path)
    (results,) = tmp_path.glob("out/*/*_results.json")
    written = json.loads(results.read_text())
    assert written["n-samples"]["rooms"]["effective"] == 2, ran.stderr[-3000:]
    assert {"individual_acc,none", "strict_acc,none", "rel_left,none", "rel_right,none"} <= set(
        written["results"]["rooms"]
    )


def value(command: list[str], option: str) -> str | None:
    return command[command.index(option) + 1] if option in command else None


def test_the_readme_begins_with_the_two_commands() -> None:
    assert [shlex.split(line, comments=True) for line in LINES[:2]] == [["make", "demo"], ["make", "test"]]
    assert all(any(line.startswith(start) for line in LINES) for start in ELSEWHERE), "an exception without a command"


def test_lmms_eval_commands_name_models_tasks_and_arguments_that_exist() -> None:
    """Those that end at a missing checkpoint never get to their task."""
    commands = [shlex.split(line, comments=True) for line in LINES if "--model " in line and line not in SESSION]
    commands = [command for command in commands if "--tasks" in command]
    assert len(commands) >= 4
    known = manager().all_tasks
    for command in commands:
        model = value(command, "--model")
        assert model in model_names()
        assert set(str(value(command, "--tasks")).split(",")) <= set(known)
        given = dict(part.split("=") for part in (value(command, "--model_args") or "").split(",") if part)
        family, method = model.split("_")
        if family == "vllm":  # its options are the engine's, which is not here; tests/vllm runs the command
            given = {name: text for name, text in given.items() if name == "pretrained"}
        pretrained = given.pop("pretrained", FAMILIES[family])
        assert pretrained is not None
        arguments = ModelArguments(
            method=method, pretrained=pretrained, **{name: parse_value(text) for name, text in given.items()}
        )
        for task in str(value(command, "--tasks")).split(","):
            arguments.choose({"whatsup": "whatsup_controlled_a"}.get(task, task))


def test_vlmevalkit_names_exist() -> None:
    for line in (line for line in LINES if line.startswith("adaptvis vlmeval")):
        words = shlex.split(line, comments=True)[2:]
        assert {word for word in words if not re.match(r"-|out/|\w+=", word)} <= {
            *own_data_sets(),
            *registered_models(),
        }
    for name in re.findall(r"`(WhatsUp_\w+|VSR_QA)`", README):
        assert name in own_data_sets()


def test_links_and_tasks_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[\w-]+)?\)", README):
        assert target.startswith("http") or (ROOT / target).exists(), target
    assert "### A task of your own" in OWN_TASK and "whatsup/README.md#a-task-of-your-own" in README
    known = manager().all_tasks
    for task in re.findall(r"^\| ((?:`(?:whatsup|vsr)\w*`(?:, )?)+)", README, re.MULTILINE):
        for name in re.findall(r"`(\w+)`", task):
            assert {name, f"{name}_val", f"{name}_test"} <= set(known)


def test_python_is_the_public_surface() -> None:
    code = "".join(line for line in README.splitlines(keepends=True) if line.startswith("from adaptvis_plugin"))
    code += (
        "from adaptvis_plugin.scoring import matches\nfrom adaptvis_plugin.data import authors_split\n"
        "from adaptvis_plugin.models import load_preset\n"
        "assert matches('It is on the left.', 'Left', rule='strict') and len(authors_split(412)[1]) == 330\n"
        "assert load_preset('llava-1.5-7b').prompt == 'paper'\n"
    )
    done = forked.run([sys.executable, "-c", code], {**os.environ, **forked.IMPORTED})
    assert done.returncode == 0, done.stderr
