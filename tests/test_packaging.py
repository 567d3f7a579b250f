"""The wheel, built from the tree and from the sdist, installed, and used from outside the repository."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CHECK = """
from importlib.metadata import entry_points
from pathlib import Path
import adaptvis_plugin, sys
from adaptvis_plugin.paths import PRESET_FOLDER, DEMO_MODEL, TASK_FOLDER
installed = Path(sys.argv[1])
assert Path(adaptvis_plugin.__file__).is_relative_to(installed), adaptvis_plugin.__file__
assert TASK_FOLDER.is_relative_to(installed) and list(TASK_FOLDER.glob("*/*.yaml")), TASK_FOLDER
assert PRESET_FOLDER.is_relative_to(installed) and list(PRESET_FOLDER.glob("*.yaml")), PRESET_FOLDER
assert (DEMO_MODEL / "model.safetensors").is_file()
assert (Path(adaptvis_plugin.__file__).parent / "comparison" / "templates" / "report.html").is_file()
assert "adaptvis" in {e.name for e in entry_points(group="lmms_eval.models")}
assert "torch" not in sys.modules
from lmms_eval.tasks import TaskManager
import lmms_eval.models
assert "llava_adaptvis" in lmms_eval.models.list_available_models()
assert Path(TaskManager().task_index["whatsup_demo"]["yaml_path"]).is_relative_to(installed)
from adaptvis_plugin.models.arguments import ModelArguments
from adaptvis_plugin.models.loading import load_model
from adaptvis_plugin.models import load_preset
load_preset("llava-1.5-7b")
load_model(ModelArguments(method="baseline", pretrained="demo"))
"""


def build(source: Path, target: Path, *options: str) -> Path:
    """Build with the build backend that `make setup` installed, and return the wheel."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(target), *options, str(source)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    (wheel,) = target.glob("*.whl")
    return wheel


def checksums(wheel: Path) -> dict[str, int]:
    """Return the checksum of each file in a wheel."""
    return {member.filename: member.CRC for member in zipfile.ZipFile(wheel).infolist()}


def test_an_installed_wheel_works_outside_the_repository(tmp_path: Path) -> None:
    wheel = build(ROOT, tmp_path / "dist")
    names = checksums(wheel)
    assert names == checksums(build(ROOT, tmp_path / "tree", "--wheel")), "as it is built without the sdist"
    assert not [name for name in names if name.startswith(("tests/", "tasks/", "configs/"))]
    assert [name for name in names if name.endswith(".dist-info/licenses/LICENSE")]
    assert wheel.stat().st_size < 8_000_000

    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(pip, check=True)
    outside = {**os.environ, "PYTHONPATH": str(site), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", CHECK, str(site)], cwd=tmp_path, env=outside, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_editable_install_finds_the_folders_at_the_top() -> None:
    from adaptvis_plugin.paths import PRESET_FOLDER, TASK_FOLDER

    assert ROOT / "tasks" == TASK_FOLDER and ROOT / "configs" == PRESET_FOLDER
