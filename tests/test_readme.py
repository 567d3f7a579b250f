"""Every command and name in the README is one that exists."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import lmms_eval.models  # noqa: F401  # this is what loads plugins
import pytest
from lmms_eval.tasks import TaskManager
from typer.testing import CliRunner

from adaptvis_plugin.cli import app
from adaptvis_plugin.lmms_eval.plugin import FAMILIES, model_names
from adaptvis_plugin.models.runner import Setup
from adaptvis_plugin.vlmevalkit.names import TASKS
from adaptvis_plugin.vlmevalkit.names import model_names as vlmevalkit_names

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    shlex.split(line, comments=True)
    for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.strip()
]


def value(command: list[str], option: str) -> str | None:
    return command[command.index(option) + 1] if option in command else None


def starting(*words: str) -> list[list[str]]:
    return [command for command in COMMANDS if command[: len(words)] == list(words)]


def test_the_readme_begins_with_the_two_commands() -> None:
    assert COMMANDS[:2] == [["make", "demo"], ["make", "test"]]
    for command in starting("make"):
        subprocess.run(["make", "--dry-run", *command[1:]], cwd=ROOT, check=True, capture_output=True)


def test_lmms_eval_commands_name_models_tasks_and_arguments_that_exist() -> None:
    commands = [command for command in COMMANDS if "--tasks" in command]
    assert len(commands) >= 4
    known = TaskManager().all_tasks
    for command in commands:
        model = value(command, "--model")
        assert model in model_names()
        assert set(str(value(command, "--tasks")).split(",")) <= set(known)
        given = dict(part.split("=") for part in (value(command, "--model_args") or "").split(",") if part)
        family, method = model.split("_")
        pretrained = given.pop("pretrained", FAMILIES[family])
        assert pretrained is not None
        setup = Setup.create(method, pretrained, None, None, {name: float(text) for name, text in given.items()})
        for task in str(value(command, "--tasks")).split(","):
            setup.choose({"whatsup": "whatsup_controlled_a"}.get(task, task))


def test_vlmevalkit_commands_name_models_and_data_that_exist() -> None:
    commands = starting("adaptvis", "vlmeval")
    assert len(commands) == 2
    for command in commands:
        named = [word for word in command[2:] if not word.startswith(("-", "out/"))]
        assert set(named) <= {*TASKS, *vlmevalkit_names()}
    for name in re.findall(r"`(WhatsUp_\w+|VSR_QA)`", README):
        assert name in TASKS


@pytest.mark.parametrize("command", starting("adaptvis"), ids=" ".join)
def test_commands_of_ours_exist(command: list[str]) -> None:
    names = command[1:3] if command[1] == "data" else command[1:2]
    result = CliRunner().invoke(app, [*names, "--help"])
    assert result.exit_code == 0, result.output
    for option in (word for word in command if word == "--from"):
        assert option in result.output


def test_links_and_tasks_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("http") or (ROOT / target).exists(), target
    known = TaskManager().all_tasks
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
    subprocess.run([sys.executable, "-c", code], check=True)
