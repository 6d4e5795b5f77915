"""What two processes have to agree on; tests/compress/test_parallel.py has a whole run."""

from pathlib import Path
from typing import Any

import torch

from compress.calibrate import calibrate
from compress.formats import INT4
from compress.parallel import Processes
from compress.quantize import LayerFormats, activation_quantizers, insert_quantizers
from tests.compress import processes


def calibrated(at: Processes) -> dict[str, Any]:
    """Calibrate on inputs whose sign depends on the process, then agree."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(8, 8))
    formats = {"0": LayerFormats(INT4, INT4)}
    insert_quantizers(network, {"0": "input"}, learned=True, formats=formats)
    inputs = torch.rand(4, 8) if at.main else torch.randn(4, 8)
    calibrate(network, [inputs], "max")
    (quantizer,) = activation_quantizers(network).values()
    before = quantizer.form.name
    at.same_as_main(network)
    return {"before": before, "form": quantizer.form.name, "scale": quantizer.scale.item()}


def test_every_process_takes_over_the_main_ones_calibration(tmp_path: Path) -> None:
    main, other = processes.in_two(tmp_path, calibrated)

    assert (main["before"], other["before"]) == ("uint4", "int4")
    assert main["form"] == other["form"] == "uint4"
    assert main["scale"] == other["scale"]
