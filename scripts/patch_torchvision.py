"""Make a CUDA build of torchvision importable beside a CPU build of torch, in this environment only.

Package registries serve torchvision as a CUDA build. Beside a CPU build of torch, its compiled extension cannot load.
The operators `torchvision::nms` and `torchvision::qnms` are then never declared and `import torchvision` fails,
although nothing here needs them. `make setup` runs this script. If the import fails for that reason, the script adds a
start-up file to the environment's site-packages, which declares the two operators just before the first import of
torchvision. If torchvision works or is missing, nothing changes.
"""

import subprocess
import sys
import sysconfig
from pathlib import Path

NAME = "declare_torchvision_operators"
SOURCE = '''"""Declare the operators of a torchvision with an unusable compiled extension (see patch_torchvision.py)."""
import sys


class Declare:
    """A meta path finder that finds nothing: it only acts just before the first import of torchvision."""

    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch

            self.library = library = torch.library.Library("torchvision", "DEF")
            arguments = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            for operator in ("nms", "qnms"):
                library.define(operator + arguments)
            sys.modules[__name__].keep_alive = library
        return None


sys.meta_path.insert(0, Declare())
'''


def main() -> None:
    probe = subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True, text=True)
    if "torchvision::nms does not exist" not in probe.stderr:
        return
    site = Path(sysconfig.get_path("purelib"))
    (site / f"{NAME}.py").write_text(SOURCE)
    (site / f"{NAME}.pth").write_text(f"import {NAME}\n")
    subprocess.run([sys.executable, "-c", "import torchvision"], check=True)
    print("torchvision: declared the operators its CUDA extension could not register on this CPU build of torch")


if __name__ == "__main__":
    main()
