"""The real TensorRT 8.6.0, which imports without a GPU: what we and the stand-in call is there.

    make test-plan PYTHON=python3.10 TENSORRT=8.6.0

installs it. Its wheel is the newest on the Python package index that holds a builder.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.standin.standin import StandIn

VERSION = "8.6.0"
ROOT = Path(__file__).parents[2]
# What the plugin library links and nothing calls before there is a GPU: together over 1 GB.
LINKED = ("libcublas.so.12", "libcublasLt.so.12", "libcudnn.so.8")
PREAMBLE = """
import json, tensorrt as trt
from contract.engine import Engine
from contract.engine_log import kept, log_of
from contract.errors import EngineError
"""


def installed() -> bool:
    try:
        return importlib.metadata.version("tensorrt") == VERSION
    except importlib.metadata.PackageNotFoundError:
        return False


pytestmark = pytest.mark.skipif(
    not installed(),
    reason=f"tensorrt {VERSION} is not installed: make test-plan TENSORRT={VERSION}",
)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return an environment in which ``import tensorrt`` finds all that it links."""
    if not all(map(shutil.which, ("cc", "nm"))):
        pytest.skip("making what TensorRT links needs cc and nm")
    found = importlib.util.find_spec("tensorrt")
    assert found is not None
    assert found.origin is not None
    library = Path(found.origin).parent
    folder = tmp_path_factory.mktemp("linked")
    for name in LINKED:
        make_empty(folder, name, library / "libnvinfer_plugin.so.8")
    paths = [str(folder), str(library), os.environ.get("LD_LIBRARY_PATH", "")]
    return {**os.environ, "LD_LIBRARY_PATH": ":".join(filter(None, paths)), "PYTHONPATH": str(ROOT)}


def make_empty(folder: Path, name: str, user: Path) -> None:
    """Write a library with what another one takes from it; to call it ends the process."""
    listed = subprocess.run(
        ["nm", "-D", "--undefined-only", user], check=True, capture_output=True, text=True
    )
    symbols = [line.split()[-1] for line in listed.stdout.splitlines()]
    functions = sorted(s.partition("@")[0] for s in symbols if s.endswith(f"@{name}"))
    source, versions = folder / f"{name}.c", folder / f"{name}.map"
    bodies = "".join(f"void {function}(void) {{ abort(); }}\n" for function in functions)
    source.write_text(f"#include <stdlib.h>\n{bodies}")
    versions.write_text(f"{name} {{ global: *; }};\n")
    options = [f"-Wl,-soname,{name}", f"-Wl,--version-script={versions}"]
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-w", "-o", folder / name, source, *options], check=True
    )


def answer(environment: dict[str, str], script: str) -> Any:
    """Run a script beside the real module; it prints JSON."""
    ran = subprocess.run(
        [sys.executable, "-c", PREAMBLE + script],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(ran.stdout.splitlines()[-1])


def public(kind: type) -> set[str]:
    return {name for name in vars(kind) if not name.startswith("_")}


def test_whatever_the_stand_in_has_the_real_one_has_too(environment: dict[str, str]):
    module = StandIn(VERSION).module
    names = {
        name: sorted(public(value) if isinstance(value, type) else ())
        for name, value in vars(module).items()
        if not name.startswith("_")
    }

    script = f"""
names = {names!r}
print(json.dumps([
    f"{{name}}.{{member}}".rstrip(".")
    for name, members in names.items()
    for member in ("", *members)
    if not hasattr(getattr(trt, name, None), member or "__class__") or not hasattr(trt, name)
]))
"""
    assert answer(environment, script) == []
    # So that an empty list of names does not pass.
    assert "execute_async_v3" in names["IExecutionContext"]
    assert "SPARSE_WEIGHTS" in names["BuilderFlag"]


def test_our_logger_is_one_that_tensorrt_takes(environment: dict[str, str]):
    script = """
with kept(trt) as lines:
    try:
        trt.Builder(log_of(trt))
        lines.append("there is a GPU: CUDA initialization")
    except TypeError:
        pass
print(json.dumps(lines))
"""
    assert any("CUDA initialization" in line for line in answer(environment, script))


def test_without_a_gpu_a_plan_is_refused_and_the_process_lives(environment: dict[str, str]):
    script = """
try:
    Engine(b"no plan", "model.plan")
except EngineError as error:
    print(json.dumps(str(error)))
"""
    said = answer(environment, script)

    assert "\\n" not in said
    assert said.startswith(
        ("expected an NVIDIA GPU", "expected the CUDA runtime", "expected a plan for")
    )
