"""The size of files and functions, and which way imports run."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(
    path
    for package in ("contract", "compress", "service", "gpusq", "benchmarks")
    for path in ROOT.glob(f"{package}/**/*.py")
)
MAX_FILE_LINES, MAX_FUNCTION_LINES = 400, 60


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_no_file_is_too_long(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_FILE_LINES


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_no_function_is_too_long(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    lengths = {
        node.name: node.end_lineno - node.lineno + 1
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }

    assert {n: lines for n, lines in lengths.items() if lines > MAX_FUNCTION_LINES} == {}


def test_the_package_compress_imports_nothing():
    (docstring,) = ast.parse((ROOT / "compress/__init__.py").read_text(encoding="utf-8")).body

    assert isinstance(docstring, ast.Expr)


def imports_without(modules: list[str], *absent: str) -> None:
    script = "import sys, importlib\n"
    script += "".join(f"sys.modules[{name!r}] = None\n" for name in absent)
    script += f"for name in {modules!r}: importlib.import_module(name)\n"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)


def test_the_whole_service_imports_without_torch_and_without_compress():
    modules = [module(path) for path in SOURCES if module(path).startswith("service")]

    imports_without(modules, "torch", "transformers", "compress")


def test_the_command_shows_its_help_without_torch():
    script = "import sys; sys.modules['torch'] = None\n"
    script += "from compress.__main__ import main; main(['--help'])"

    shown = subprocess.run(
        [sys.executable, "-c", script], check=True, cwd=ROOT, capture_output=True, text=True
    )

    assert "compress a network" in shown.stdout


def test_the_contract_imports_with_the_standard_library_numpy_and_pillow_alone():
    modules = [module(path) for path in SOURCES if module(path).startswith("contract")]
    third_party = (
        "torch",
        "pydantic",
        "yaml",
        "onnx",
        "fastapi",
        "google.protobuf",
        "tritonclient",
    )

    imports_without(modules, "compress", "service", *third_party)
