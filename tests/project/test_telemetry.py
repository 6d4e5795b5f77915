"""No command asks another host for anything, or leaves a file in the home folder."""

import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from PIL import Image

from service.executors import choice
from tests import bundles

ROOT = Path(__file__).parents[2]
# Python runs a module of this name before anything else.
LISTENER = """
import os, socket
asked = socket.getaddrinfo
def getaddrinfo(host, *rest, **more):
    with open(os.environ["LOOKUPS"], "a") as file:
        print(host, file=file)
    return asked(host, *rest, **more)
socket.getaddrinfo = getaddrinfo
"""


class Quiet:
    """A home with nothing in it, and a list of the hosts that were looked up."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.home.mkdir()
        self._lookups = folder / "lookups"
        self._lookups.touch()
        (folder / "sitecustomize.py").write_text(LISTENER)
        # In what calls itself CI, OpenVINO is silent by itself.
        hidden = ("CI", "TF_BUILD", "JENKINS_URL", "XDG_CACHE_HOME", "ORT_DISABLE_TELEMETRY")
        self.environment = {k: v for k, v in os.environ.items() if k not in hidden}
        self.environment |= {
            "HOME": str(self.home),
            "LOOKUPS": str(self._lookups),
            "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}",
        }

    def hosts(self) -> set[str]:
        return set(self._lookups.read_text().split())

    def files(self) -> list[Path]:
        return list(self.home.rglob("*"))


@pytest.fixture
def quiet(tmp_path: Path) -> Quiet:
    folder = tmp_path / "quiet"
    folder.mkdir()
    return Quiet(folder)


@pytest.mark.parametrize("executor", sorted(choice.RUNTIMES))
def test_serving_asks_no_host_and_leaves_no_file(
    quiet: Quiet, repository: Path, red_jpeg: bytes, executor: str
):
    with subprocess.Popen(
        [sys.executable, "-m", "service", "--repository", str(repository), "--port", "0"],
        cwd=ROOT,
        env={**quiet.environment, "GPUSQ_EXECUTOR": executor},
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stderr is not None
        log = iter(running.stderr.readline, "")
        address = next(found[1] for line in log if (found := re.search(r"ready at (\S+)", line)))
        answer = httpx.post(
            f"{address}/v1/classify", content=red_jpeg, headers={"Content-Type": "image/jpeg"}
        )
        running.terminate()

    assert answer.status_code == 200
    assert quiet.hosts() == {"127.0.0.1"}
    assert quiet.files() == []


def test_evaluating_asks_no_host_and_leaves_no_file(quiet: Quiet, tmp_path: Path):
    bundle = bundles.write_bundle(
        tmp_path / "bundle", bundles.colour_graph(), bundles.colour_card()
    )
    pictures = tmp_path / "pictures"
    for colour in bundles.COLOURS:
        (pictures / colour).mkdir(parents=True)
        Image.new("RGB", (8, 8), colour).save(pictures / colour / "plain.png")

    evaluated = subprocess.run(
        [sys.executable, "-m", "compress", "evaluate", str(bundle), "--data", str(pictures)],
        cwd=ROOT,
        env=quiet.environment,
        capture_output=True,
        text=True,
        check=True,
    )

    assert "images 4" in evaluated.stdout
    assert quiet.hosts() == set()
    assert quiet.files() == []


def test_a_command_that_times_networks_asks_no_host_and_leaves_no_file(
    quiet: Quiet, tmp_path: Path
):
    # Every command begins alike; this one ends at once. Timing is what imports both runtimes.
    script = "from compress.__main__ import main\n"
    script += f"assert main(['publish', {str(tmp_path / 'none')!r}, '--repository', 'none']) == 2\n"
    script += "import compress.latency"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=quiet.environment, check=True)

    assert quiet.hosts() == set()
    assert quiet.files() == []


@pytest.mark.parametrize("load", ["_openvino", "_onnxruntime"])
def test_a_triton_asks_no_host_and_leaves_no_file(quiet: Quiet, repository: Path, load: str):
    model = repository / "colours" / "1" / "model.onnx"
    script = f"from pathlib import Path; from compress.plan.triton_python_model import {load}\n"
    script += f"{load}(Path({str(model)!r}))"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=quiet.environment, check=True)

    assert quiet.hosts() == set()
    assert quiet.files() == []
