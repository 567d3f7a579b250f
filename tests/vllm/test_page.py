"""What docs/vllm.md says is so: its commands and code are run against the demo checkpoint, by their order."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("vllm")

from adaptvis_plugin.decoding import AdaptVis
from adaptvis_plugin.models.answers import Answer, Prompt
from adaptvis_plugin.models.arguments import ModelArguments
from adaptvis_plugin.models.runner import Runner
from adaptvis_plugin.paths import DEMO_MODEL
from adaptvis_plugin.vllm.steering import ALPHA, HEADS, LAYERS, MOST
from adaptvis_plugin.vllm.support import TESTED, reasons
from tests.vllm.serving import ROWS, environment, serving

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "vllm.md").read_text(encoding="utf-8")
CHECKPOINT = "llava-hf/llava-1.5-7b-hf"
INSTALL, LMMS_EVAL, SERVE, CURL, ALONE = re.findall(r"```bash\n(.*?)```", PAGE, re.S)
GENERATE, CLIENT = re.findall(r"```python\n(.*?)```", PAGE, re.S)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("user")
    ROWS[0]["image"].save(found / "photo.png")
    return found


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[str]:
    """The page's command and its default options, with the demo checkpoint under the name of the page's."""
    start = ["vllm", "serve", CHECKPOINT]
    command = shlex.split(SERVE)
    assert command[: len(start)] == start
    with serving(folder / "server", *command[len(start) :], "--served-model-name", CHECKPOINT) as address:
        yield address


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def answer() -> Answer:
    """AdaptVis without an engine."""
    runner = Runner(
        ModelArguments(
            method="adaptvis", pretrained="demo", prompt="chat", alpha_low=0.5, alpha_high=1.5, threshold=0.4
        )
    )
    question = ROWS[0]["question"]
    content = [{"type": "image"}, {"type": "text", "text": question}]
    text = runner.render([{"role": "user", "content": content}], question)
    assert text == re.findall(r'text = "(.*)"', GENERATE)[0].replace("\\n", "\n"), "the page's prompt is the template's"
    (found,) = runner.answer([Prompt(text, (ROWS[0]["image"],))], AdaptVis(0.5, 1.5, 0.4))
    return found


def assert_answered(printed: str, answer: Answer) -> None:
    """In bf16, as vLLM loads a checkpoint in fp32 by default."""
    (found,) = re.findall(r"^(\w.*) ([\d.]+) ([\d.]+)$", printed, re.M)  # among what vLLM logs
    text, confidence, alpha = found
    assert (text, float(alpha)) == (answer.text, answer.alpha)
    assert float(confidence) == pytest.approx(answer.confidence, abs=0.05)


def test_a_client_in_python_and_one_of_curl(server: str, folder: Path, answer: Answer) -> None:
    (folder / "client.py").write_text(CLIENT.replace("http://localhost:8000", server))
    assert_answered(run([sys.executable, "client.py"], folder), answer)
    said = json.loads(run(["bash", "-c", CURL.replace("http://localhost:8000", server)], folder))
    assert said["choices"][0]["message"]["content"].strip() == answer.text


def test_generate(folder: Path, answer: Answer) -> None:
    (folder / "generate.py").write_text(GENERATE.replace(CHECKPOINT, str(DEMO_MODEL)))
    assert_answered(run([sys.executable, "generate.py"], folder), answer)


def test_lmms_eval(folder: Path) -> None:
    line = LMMS_EVAL.replace(CHECKPOINT, "demo").replace("whatsup,vsr", "whatsup_demo")
    command = [sys.executable, "-m", *shlex.split(line.replace("lmms-eval", "lmms_eval", 1)), "--limit", "8"]
    run(command, folder)
    (results,) = folder.glob("out/**/*_results.json")
    assert json.loads(results.read_text())["n-samples"]["whatsup_demo"]["effective"] == 8


def test_the_other_commands() -> None:
    assert INSTALL.strip() == 'pip install "adaptvis-plugin[vllm]"'
    assert f"VLLM_PLUGINS= {SERVE}" == ALONE, "tests of refusals run it"


def test_every_refusal_is_listed() -> None:
    from vllm import EngineArgs

    every = reasons(EngineArgs(str(DEMO_MODEL)).create_engine_config())
    listed = re.findall(r"^- (.*)", PAGE.partition("## What is refused")[2].partition("\n## ")[0], re.M)
    for reason, line in zip(every, listed, strict=True):
        assert line.startswith(re.split(r"[,;=(]| \(", reason)[0]), reason


def test_names_and_numbers() -> None:
    for name in (ALPHA, LAYERS, HEADS):
        assert f"| `{name}` |" in PAGE
    assert f"from 0 to {MOST:.0e}".replace("e+0", "e") in PAGE and f"vLLM {TESTED} (" in PAGE
    for target in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert target.startswith("http") or (ROOT / "docs" / target).exists(), target
