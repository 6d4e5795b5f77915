"""Plans and repositories are written where torch and pydantic are absent: on a Jetson."""

import subprocess
import sys
from pathlib import Path

import compress.plan

# Shipped as a file for Triton's interpreter; nothing here imports it.
DATA = {"triton_python_model"}
MODULES = sorted(path.stem for path in Path(compress.plan.__file__).parent.glob("*.py"))


def test_every_module_of_plan_imports_without_torch_and_pydantic():
    script = "import sys\n"
    for absent in ("torch", "pydantic", "transformers", "onnxruntime", "yaml"):
        script += f"sys.modules[{absent!r}] = None\n"
    for module in set(MODULES) - DATA:
        script += f"import compress.plan.{module}\n"

    subprocess.run([sys.executable, "-c", script], check=True)
