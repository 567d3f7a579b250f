"""Make a CUDA build of torchvision importable beside a CPU build of torch, in this environment only.

Package registries serve torchvision as a CUDA build. Next to CPU torch its compiled extension cannot load, so
the operators `torchvision::nms` and `torchvision::qnms` are never declared and `import torchvision` raises
although nothing here needs them. `make setup` runs this script: where the import fails for that reason it adds a
start-up file to the environment's site-packages that declares the two operators just before torchvision is first
imported. Where torchvision works, or is absent, nothing is changed.
"""

import subprocess
import sys
import sysconfig
from pathlib import Path

NAME = "declare_torchvision_operators"
SOURCE = '''"""Declares the operators of a torchvision whose compiled extension cannot load (mend_torchvision.py)."""
import sys


class Declare:
    """Meta path finder that finds nothing: it only acts just before the first import of torchvision."""

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
