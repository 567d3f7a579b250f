"""`adaptvis compare` on real runs of both frameworks, and lmms-eval's own paired test on the same runs."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from tests.forked import run
from tests.framework_runs import BIN, adaptvis, environment, lmms_eval, run_all, vlmeval
from tests.test_sweep_tasks import own_task, pope

ROWS = 60
METRICS = {"individual_acc": "Overall", "strict_acc": "strict_acc", "pair_acc": "pair_acc", "set_acc": "set_acc"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs of both frameworks, and what lmms-eval printed in the file `printed`."""
    folder = tmp_path_factory.mktemp("runs")
    own = environment(tmp_path_factory.mktemp("home"))
    both = "whatsup_demo,whatsup_demo_test"
    plain = lmms_eval(folder / "lmms", "baseline", both, "--limit", str(ROWS))
    other = vlmeval(folder / "vlm", ("baseline", "adaptvis"), "--limit", str(ROWS))
    run_all([plain, other], own)
    [samples] = folder.glob("lmms/*/*_samples_whatsup_demo.jsonl")
    steered = lmms_eval(
        folder / "steered", "scalingvis", "whatsup_demo", "--limit", str(ROWS), "--baseline", str(samples)
    )
    printed = run_all([steered], own)
    assert (folder / "steered").exists(), printed  # lmms-eval's exit status is 0 even if a run fails
    (folder / "printed").write_text(printed)
    return folder


def compared(*arguments: object) -> dict[str, Any]:
    """Run `adaptvis compare` and return what it wrote as JSON, by task."""
    target = Path(str(arguments[0])).parent / "found.json"
    done = adaptvis("compare", *arguments, "--json", target)
    assert done.exit_code == 0, done.output
    return {task["task"]: task for task in json.loads(target.read_text())["tasks"]}


def of_runs(task: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {run["name"]: run for run in task["runs"]}


def value(run: dict[str, Any], name: str) -> float:
    return float(next(one["value"] for one in run["metrics"] if one["name"] == name))


@pytest.fixture(scope="module")
def demo(runs: Path) -> dict[str, Any]:
    found: dict[str, Any] = compared(runs / "lmms", runs / "steered", runs / "vlm")["whatsup_demo"]
    return found


def test_the_figures_are_the_frameworks_own(runs: Path, demo: dict[str, Any]) -> None:
    found = of_runs(demo)
    assert set(found) == {"llava_baseline", "llava_scalingvis", "demo_baseline", "demo_adaptvis"}
    for name, folder in (("llava_baseline", "lmms"), ("llava_scalingvis", "steered")):
        [results] = runs.glob(f"{folder}/*/*_results.json")
        theirs = json.loads(results.read_text())["results"]["whatsup_demo"]
        assert {m: value(found[name], m) for m in METRICS} == pytest.approx({m: theirs[f"{m},none"] for m in METRICS})
        relations = {f"rel_{one['name']},none": one["accuracy"] for one in found[name]["relations"]}
        assert relations == pytest.approx({key: theirs[key] for key in relations}) and len(relations) == 4
    for name in ("demo_baseline", "demo_adaptvis"):
        state = json.loads((runs / "vlm" / name / "status.json").read_text())["datasets"]["WhatsUp_Demo"]["metrics"]
        assert {m: 100 * value(found[name], m) for m in METRICS} == pytest.approx(
            {m: state[k] for m, k in METRICS.items()}
        )


def test_the_two_frameworks_rows_are_the_same_rows(demo: dict[str, Any]) -> None:
    other = of_runs(demo)["demo_baseline"]["against"]
    assert demo["baseline"] == "llava_baseline" and demo["rows"] == ROWS and demo["groups"] == ROWS // 4
    assert other["fixed"] == other["broken"] == [] and other["test"]["p_value"] == 1
    assert f"only {ROWS} of 400 rows were answered" in demo["notes"][0]


def test_methods_and_settings_are_known(demo: dict[str, Any]) -> None:
    found = of_runs(demo)
    assert found["llava_scalingvis"]["settings"] == {"alpha": 0.8}
    assert found["demo_adaptvis"]["settings"] == {"alpha_low": 0.5, "alpha_high": 1.5, "threshold": 0.4}
    assert {run["facts"]["prompt"] for run in found.values()} == {"paper"}
    assert found["llava_scalingvis"]["smoothed"] == 1 and found["llava_baseline"]["smoothed"] == 0
    assert 0.5 < found["demo_adaptvis"]["confidence"] < 1


def test_lmms_evals_own_paired_test_finds_our_scores_and_agrees(runs: Path, demo: dict[str, Any]) -> None:
    [results] = runs.glob("steered/*/*_results.json")
    theirs = json.loads(results.read_text())["results"]["whatsup_demo"]
    ours = of_runs(demo)
    assert theirs["paired_baseline_score"] == pytest.approx(100 * value(ours["llava_baseline"], "individual_acc"))
    difference = next(
        one for one in ours["llava_scalingvis"]["against"]["differences"] if one["name"] == "individual_acc"
    )
    printed = re.search(r"whatsup_demo: diff=(\S+)%, p=(\S+?)(?:\x1b|\s)", (runs / "printed").read_text())
    assert printed and float(printed[1]) == pytest.approx(100 * difference["value"], abs=0.01)
    middle = (theirs["paired_ci_lower"] + theirs["paired_ci_upper"]) / 2
    assert middle == pytest.approx(100 * difference["value"])
    # Their test is a t-test over the rows' scores; from the same rows scipy gives the same p-value.
    rows = pd.read_csv(write_report(runs) / "rows.csv").query("task == 'whatsup_demo'")
    right = rows.pivot(index="row", columns="run", values="right")
    expected = stats.ttest_rel(right["llava_scalingvis"], right["llava_baseline"]).pvalue
    assert theirs["paired_pvalue"] == pytest.approx(expected, abs=1e-6)


def write_report(runs: Path) -> Path:
    folder = runs / "report"
    if not folder.exists():
        done = adaptvis("compare", runs / "lmms", runs / "steered", runs / "vlm", "-o", folder)
        assert done.exit_code == 0, done.output
    return folder


def test_the_reports_files(runs: Path) -> None:
    folder = write_report(runs)
    names = {path.name for path in folder.iterdir()}
    assert {"report.html", "report.md", "figures.csv", "rows.csv"} <= names
    drawn = {f"1-whatsup_demo-{what}.{kind}" for what in ("scores", "relations", "options") for kind in ("png", "svg")}
    assert drawn <= names
    figures = pd.read_csv(folder / "figures.csv")
    tested = figures[figures["figure"].str.startswith("p (")]
    assert set(tested["run"]) == {"llava_scalingvis", "demo_baseline", "demo_adaptvis"}
    assert "| run | accuracy |" in (folder / "report.md").read_text()
    page = (folder / "report.html").read_text()
    pictures = set(re.findall(r"data:image/jpeg;base64,[\w+/=]+", page))
    assert len(pictures) == pd.read_csv(folder / "rows.csv")["row"].nunique(), "no two scenes are the same"
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)""", page), "nothing is loaded from anywhere"


def test_an_output_folder_of_one_run_gives_figures_and_no_test(runs: Path) -> None:
    found = compared(runs / "lmms")
    assert set(found) == {"whatsup_demo", "whatsup_demo_test"}
    [run] = found["whatsup_demo_test"]["runs"]
    assert run["against"] is None and np.isfinite(value(run, "set_acc"))


def test_rows_of_the_test_part_are_those_of_the_whole_table(runs: Path) -> None:
    [part] = (runs / "lmms").glob("*/*_samples_whatsup_demo_test.jsonl")
    done = adaptvis("compare", part, runs / "vlm" / "demo_adaptvis")
    assert "are rows of the same data; --common compares their runs" in done.output
    task = compared(part, runs / "vlm" / "demo_adaptvis", "--common")["whatsup_demo"]
    ids = {json.loads(line)["individual_acc"]["row"]["id"] for line in part.read_text().splitlines()}
    assert task["rows"] == len(ids & set(range(ROWS))) < ROWS
    assert any("compared on the" in note for note in task["notes"])


def test_other_rows_of_one_task_are_refused(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "steered", tmp_path / "short")
    [samples] = tmp_path.glob("short/*/*_samples_*.jsonl")
    samples.write_text("".join(samples.read_text().splitlines(keepends=True)[:-2]))
    done = adaptvis("compare", runs / "lmms", tmp_path / "short")
    assert done.exit_code == 1
    assert f"llava_scalingvis has {ROWS - 2} rows and llava_baseline has {ROWS}" in done.output
    assert f"llava_scalingvis lacks {ROWS - 2}, {ROWS - 1}" in done.output and "--common" in done.output


def test_the_same_rows_with_other_questions_or_labels_are_refused(runs: Path, tmp_path: Path) -> None:
    for change, what in (('"target": "Left"', "gold"), ("in relation to the table", "question")):
        folder = tmp_path / what
        shutil.copytree(runs / "steered", folder)
        [samples] = folder.glob("*/*_samples_*.jsonl")
        samples.write_text(
            samples.read_text().replace(change, change.replace("Left", "Under").replace("table", "sofa"))
        )
        done = adaptvis("compare", runs / "vlm", folder)
        assert done.exit_code == 1 and f"row 0: the {what} is" in done.output, done.output


def test_another_prompt_is_noted(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "steered", tmp_path / "chat")
    [results] = tmp_path.glob("chat/*/*_results.json")
    results.write_text(
        results.read_text().replace('"model_args": "pretrained=demo"', '"model_args": "pretrained=demo,prompt=chat"')
    )
    done = adaptvis("compare", runs / "lmms", tmp_path / "chat")
    assert "the runs differ in prompt: paper (llava_baseline); chat (llava_scalingvis)" in done.output


def test_the_baseline_may_be_named(runs: Path) -> None:
    arguments = (runs / "lmms", runs / "vlm", "--baseline")
    assert compared(*arguments, "demo_adaptvis")["whatsup_demo"]["baseline"] == "demo_adaptvis"
    done = adaptvis("compare", *arguments, "nobody")
    assert done.exit_code == 1
    assert (
        "--baseline nobody: no run has this name; there are llava_baseline, demo_adaptvis, demo_baseline" in done.output
    )


def test_a_killed_run_of_vlmevalkit_is_read_from_its_trace(runs: Path, tmp_path: Path) -> None:
    whole = runs / "vlm" / "demo_baseline"
    folder = tmp_path / "work" / "demo_baseline"
    folder.mkdir(parents=True)
    for name in ("trace.jsonl", "settings.json"):
        shutil.copy(whole / f"demo_baseline_WhatsUp_Demo_{name}", folder)
    trace = folder / "demo_baseline_WhatsUp_Demo_trace.jsonl"
    lines = trace.read_text().splitlines(keepends=True)
    trace.write_text("".join(lines[:9]) + lines[9][:20])
    task = compared(tmp_path / "work", whole, "--common")["whatsup_demo"]
    assert task["rows"] == 9
    one, other = task["runs"]
    assert one["metrics"] == other["metrics"]


def test_tasks_of_others_have_titles_that_say_what_the_figures_are(tmp_path: Path) -> None:
    """lmms-eval's POPE, whose metadata is a list, and a task with two filters; a model without `pretrained`."""
    pope(tmp_path)
    tasks = own_task(tmp_path / "tasks")
    code = tasks / "own.py"  # a metric that fails ends a run of lmms-eval
    text = code.read_text().replace("raise KeyError", "text = str")
    code.write_text(text.replace(', "wide": doc["one"].width > 9', ""))  # lmms-eval shows metrics no pictures
    command = [str(BIN / "lmms-eval"), "--model", "dummy", "--tasks", "pope,spot", "--include_path", str(tasks)]
    command += ["--log_samples", "--output_path", str(tmp_path / "out"), "--batch_size", "1"]
    done = run(command, environment(tmp_path / "home"), tmp_path)
    [results] = (tmp_path / "out").glob("*_results.json")  # not in a folder of the model, since it has no checkpoint
    theirs = json.loads(results.read_text())
    assert isinstance(theirs["configs"]["pope"]["metadata"], list), done.stderr[-3000:]
    found = compared(tmp_path / "out")
    [own], [spot] = (found[task]["runs"] for task in ("pope", "spot"))
    assert [one["title"] for one in own["metrics"]] == ["pope_accuracy, mean over rows"]
    assert value(own, "pope_accuracy") == theirs["results"]["pope"]["pope_accuracy,none"]
    # The rows of its precision and F1 have the numbers of its accuracy: their mean is another figure than lmms-eval's.
    assert found["pope"]["remarks"][0].startswith("pope_precision, pope_recall, pope_f1_score, pope_yes_ratio: not")
    shown = {one["name"]: one["value"] for one in spot["metrics"]}
    assert found["spot"]["rows"] == 3 and shown["score"] == 0.5
    assert shown["length"] == pytest.approx(theirs["results"]["spot"]["length,plain"])
    assert "unknown" not in shown, "it was a number in no row"


def test_power_analysis_finds_the_task(tmp_path: Path) -> None:
    tasks = adaptvis("tasks", "--path").output.strip()
    command = [str(BIN / "lmms-eval"), "power", "--tasks", "whatsup_demo", "--include-path", tasks]
    done = run(command, environment(tmp_path))
    assert re.search(r"whatsup_demo:\s+Sample size:\s+n = 400", done.stdout)
