"""What the documents beside the README name is there."""

import importlib.util
import re
import shlex
import subprocess
from pathlib import Path

import pytest

import adaptvis_plugin
from tests.families import FAMILIES

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(ROOT.glob("tasks/*/README.md"))]
CONTRIBUTING = DOCUMENTS[0].read_text(encoding="utf-8")
COMMANDS = [
    shlex.split(line, comments=True)
    for block in re.findall(r"```bash\n(.*?)```", CONTRIBUTING, re.S)
    for line in block.splitlines()
]


def commands(*start: str) -> list[list[str]]:
    """Return the rest of each command of CONTRIBUTING.md that starts so."""
    found = [command[len(start) :] for command in COMMANDS if command[: len(start)] == list(start)]
    assert found, start
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[\w-]+)?\)", document.read_text(encoding="utf-8")):
        assert target.startswith("http") or (document.parent / target).exists(), target


def test_make_has_the_targets() -> None:
    for targets in commands("make"):
        subprocess.run(["make", "--dry-run", *targets], cwd=ROOT, check=True, capture_output=True)


def test_the_pytest_commands_name_tests() -> None:
    """Collecting them would take longer than most tests."""
    for arguments in commands(".venv/bin/python", "-m", "pytest"):
        files = [ROOT / argument for argument in arguments if argument.startswith("tests/")]
        words = arguments[arguments.index("-k") + 1 :] if "-k" in arguments else []
        tests = "".join(file.read_text(encoding="utf-8") for file in files)
        assert all(re.search(rf"def test_\w*{word}", tests) or word in FAMILIES for word in words), arguments


def test_what_writes_the_generated_files_exists() -> None:
    for module in re.findall(r"`python -m ([\w.]+)", CONTRIBUTING):
        assert importlib.util.find_spec(module), module
    for script in re.findall(r"`python (\S+\.py)", CONTRIBUTING):
        assert (ROOT / script).is_file(), script


def test_the_changelog_is_of_this_version() -> None:
    """Its first entry is what comes next; releasing it renames the heading to the version."""
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    first = changelog.split("## [")[1]
    assert first.startswith(("Unreleased", adaptvis_plugin.__version__)) and adaptvis_plugin.__version__ in first
