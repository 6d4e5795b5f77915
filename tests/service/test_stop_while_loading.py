"""A stop that comes while a network is being loaded, which nothing can interrupt."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from service.executors import choice
from tests import bundles

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("runtime", sorted(choice.RUNTIMES))
@pytest.mark.parametrize("delay_s", [0.1, 0.25, 0.4, 0.6])
def test_a_stop_while_a_network_is_loaded_is_quick_and_ends_with_zero(
    tmp_path: Path, runtime: str, delay_s: float
):
    models = tmp_path / "models"
    bundles.write_model(models, "colours")
    settings = {
        "GPUSQ_EXECUTOR": runtime,
        "GPUSQ_REPOSITORY_CHECK_S": "0.1",
        "GPUSQ_STOP_GRACE_S": "0",
        "GPUSQ_GRPC": "false",
    }
    command = [sys.executable, "-m", "service", "--repository", str(models), "--port", "0"]
    with subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, **settings}, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stderr is not None
        try:
            assert any("ready at http" in line for line in running.stderr)
            shutil.copytree(ROOT / "model_repository" / "deit-tiny", models / ".deit-tiny")
            (models / ".deit-tiny").rename(models / "deit-tiny")
            time.sleep(delay_s)

            running.send_signal(signal.SIGTERM)
            began_s = time.monotonic()
            log = running.stderr.read()

            # ONNX Runtime aborts where the interpreter ends while it loads.
            assert running.wait(20) == 0, log
            assert log.endswith("service: stopped\n")
            assert time.monotonic() - began_s < 10
        finally:
            running.kill()
