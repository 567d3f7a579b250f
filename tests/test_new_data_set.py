"""A data set is added by the steps of CONTRIBUTING.md, as they stand there, and scored by both frameworks."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

ROOT = Path(__file__).resolve().parents[1]
SECTION = (
    (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## Add a data set\n")[2].partition("\n## ")[0]
)
FILES = {
    path: dedent(block)
    for path, block in re.findall(r"`([\w./]+)`:\n\n {3}```\w+\n(.*?) {3}```", SECTION, flags=re.DOTALL)
}
REGISTRY = "adaptvis_plugin/data/registry.py"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with the new data set, in which the commands have been run."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("adaptvis_plugin", "tasks", "configs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path, text in FILES.items():
        if path != REGISTRY:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)
    registry = folder / REGISTRY
    registry.write_text(re.sub(r"^MODULES = .*\n", FILES[REGISTRY], registry.read_text(), flags=re.MULTILINE))

    (commands,) = re.findall(r"```bash\n(.*?)```", SECTION, flags=re.DOTALL)
    data = folder / "LMUData"
    data.mkdir()
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(folder),
        "HOME": str(folder),
        "LMUData": str(data),
        "ADAPTVIS_CACHE": str(folder / "cache"),
        "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    done = subprocess.run(
        ["bash", "-euc", dedent(commands)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder


def test_the_steps_are_one_module_one_line_and_the_tasks() -> None:
    tasks = {f"tasks/toy/{name}" for name in ("tables/toy.json", "toy.yaml", "toy_val.yaml", "toy_test.yaml")}
    assert set(FILES) == {"adaptvis_plugin/data/toy.py", REGISTRY, *tasks}
    assert FILES[REGISTRY].count("\n") == 1


def test_both_frameworks_give_the_same_answers_and_the_same_accuracy(project: Path) -> None:
    (path,) = project.glob("out/lmms-eval/*/*_samples_toy.jsonl")
    samples = sorted(map(json.loads, path.read_text().splitlines()), key=lambda sample: sample["doc_id"])
    trace = project / "out" / "vlmevalkit" / "demo_baseline" / "demo_baseline_Toy_trace.jsonl"
    rows = [json.loads(line) for line in trace.read_text().splitlines()]
    assert len(rows) == 10
    assert [row["prediction"] for row in rows] == [sample["filtered_resps"] for sample in samples]
    right = [sample["individual_acc"]["score"] for sample in samples]
    assert right == [float(row["prediction"] == ("Right" if row["index"] % 2 else "Left")) for row in rows]

    (path,) = project.glob("out/lmms-eval/*/*_results.json")
    scores = json.loads(path.read_text())["results"]["toy"]
    status = json.loads((trace.parent / "status.json").read_text())
    metrics = status["datasets"]["Toy"]["metrics"]
    names = {"Overall": "individual_acc", "strict_acc": "strict_acc", "rel_left": "rel_left", "rel_right": "rel_right"}
    assert {name: metrics[name] for name in names} == pytest.approx(
        {name: 100 * scores[f"{theirs},none"] for name, theirs in names.items()}
    )
    assert metrics["Overall"] == pytest.approx(100 * sum(right) / len(right))


def test_both_frameworks_allow_the_same_number_of_tokens(project: Path) -> None:
    (path,) = project.glob("out/lmms-eval/*/*_results.json")
    options = json.loads(path.read_text())["configs"]["toy"]["generation_kwargs"]
    settings = project / "out" / "vlmevalkit" / "demo_baseline" / "demo_baseline_Toy_settings.json"
    assert options["max_new_tokens"] == json.loads(settings.read_text())["max_new_tokens"] == 100
