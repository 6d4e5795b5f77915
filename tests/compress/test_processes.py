"""What two processes have to agree on; tests/compress/test_parallel.py has a whole run."""

from pathlib import Path
from typing import Any

import torch

from compress import pipeline, stages
from compress.calibrate import calibrate
from compress.formats import INT4
from compress.parallel import Processes
from compress.quantize import LayerFormats, activation_quantizers, insert_quantizers
from tests.compress import processes, tiny

DINO = {
    "model_type": "dinov2",
    "image_size": 8,
    "patch_size": 4,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


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


def idle_token(at: Processes, folder: Path) -> dict[str, Any]:
    """Train a network whose mask token no logit depends on."""
    changes = {
        "network__family": "auto",
        "network__architecture": DINO,
        "prune__schedule": None,
        "quantize__schedule": None,
        "trackers": [],
    }
    work = pipeline.prepare(tiny.recipe(folder, **changes), at)
    network = stages.dense_teacher(work).network
    return {
        "weights": dict(network.state_dict()),
        "idle": [name for name, value in network.named_parameters() if not value.requires_grad],
    }


def test_a_parameter_that_nothing_depends_on_does_not_hold_up_the_other_process(
    tmp_path: Path,
) -> None:
    tiny.write_pictures(tmp_path / "train", each=4)
    tiny.write_pictures(tmp_path / "test", each=1)

    main, other = processes.in_two(tmp_path, idle_token, tmp_path)

    assert main["idle"] == ["body.dinov2.embeddings.mask_token"]
    assert all(torch.equal(other["weights"][key], value) for key, value in main["weights"].items())
