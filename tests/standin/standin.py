"""Put the stand-in where a machine with a GPU has TensorRT and CUDA."""

from __future__ import annotations

import contextlib
import ctypes
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx

from contract import cuda
from tests.standin import build, graph, names, plan, run
from tests.standin.cudart import FILE, Cudart
from tests.standin.gpu import Gpu

# What a version lacks of what is written here.
_ABSENT = {
    8: {"IBuilderConfig": {"progress_monitor"}, "": {"IProgressMonitor"}},
    10: {},
    11: {"Builder": {"platform_has_fast_fp16", "platform_has_fast_int8"}},
}
_CLASSES: dict[str, type] = {
    name: kind
    for part in (build, run)
    for name, kind in vars(part).items()
    if isinstance(kind, type) and issubclass(kind, names.Native) and kind is not names.Native
}


class StandIn:
    """TensorRT of one version on one GPU, neither of which is there.

    Args:
        version: As ``tensorrt.__version__`` says it.
        gpu: What is installed; an Orin by default.
        picks: Of which eligible layers the sparse kernel is the faster one.
        building: Called in the middle of every build.
    """

    def __init__(
        self,
        version: str = "10.3.0",
        gpu: Gpu | None = None,
        picks: Callable[[str], bool] = lambda _name: True,
        building: Callable[[], None] = lambda: None,
    ) -> None:
        self.version = version
        self.major = int(version.split(".", maxsplit=1)[0])
        self.gpu = gpu or Gpu()
        self.picks = picks
        self.building = building
        self.library = Cudart(self.gpu)
        self.module: Any = self._module()
        self._logger: Any = None
        self._users: weakref.WeakSet[Any] = weakref.WeakSet()

    def logger(self, given: Any, user: Any) -> Any:
        """Return the logger that is used: the first one, as long as what it was given to lives."""
        if not self._users:
            self._logger = given
        elif given is not self._logger:
            self._logger.log(
                names.Severity.WARNING,
                "The logger passed into createInfer... differs from one already provided for an "
                "existing builder, runtime, or refitter.",
            )
        self._users.add(user)
        return self._logger

    def identity(self) -> dict[str, Any]:
        """Return what a plan or a timing cache belongs to."""
        return {"tensorrt": self.version, "capability": list(self.gpu.capability)}

    def plan(self, model: onnx.ModelProto, max_batch: int = 8) -> bytes:
        """Return a plan for batches of 1 to ``max_batch``, past the builder."""
        profile = {}
        for value in model.graph.input:
            described = graph.tensor(value)
            lengths = described["shape"]
            profile[described["name"]] = [
                [batch if length == -1 else length for length in lengths]
                for batch in (1, max_batch, max_batch)
            ]
        layers = [{**layer, "picked": layer["sparse"]} for layer in graph.layers(model)]
        header = {**self.identity(), "profile": profile, "layers": layers, "verbosity": "DETAILED"}
        return plan.pack(header, model.SerializeToString())

    @contextlib.contextmanager
    def installed(self) -> Iterator[StandIn]:
        """Let ``import tensorrt`` find the module, and ``ctypes`` no libcudart but this one."""
        module, load = sys.modules.get("tensorrt"), ctypes.CDLL
        sys.modules["tensorrt"] = self.module
        ctypes.CDLL = self._loading(load)  # type: ignore[assignment, misc]
        cuda.runtime.cache_clear()
        try:
            yield self
        finally:
            ctypes.CDLL = load  # type: ignore[misc]
            cuda.runtime.cache_clear()
            del sys.modules["tensorrt"]
            if module is not None:
                sys.modules["tensorrt"] = module

    def _loading(self, load: Callable[..., Any]) -> Callable[..., Any]:
        def loaded(name: Any, *arguments: Any, **options: Any) -> Any:
            file = Path(str(name)).name
            if not file.startswith("libcudart"):
                return load(name, *arguments, **options)
            if file != FILE:
                raise OSError(f"{name}: cannot open shared object file")
            return self.library

        return loaded

    def _module(self) -> ModuleType:
        module = ModuleType("tensorrt", "A stand-in for TensorRT's Python module.")
        absent = _ABSENT[self.major]
        for name, kind in _CLASSES.items():
            if name not in absent.get("", ()):
                setattr(module, name, self._class(kind, absent.get(name, set())))
        for name, made in names.enumerations(self.major).items():
            setattr(module, name, made)
        module.__dict__.update(
            {
                "__version__": self.version,
                "init_libnvinfer_plugins": lambda _logger, _namespace: True,
                "nptype": lambda kind: run._NUMPY[kind.name],
            }
        )
        return module

    def _class(self, kind: type, absent: set[str]) -> type:
        """Return a class that knows this stand-in, without what this version lacks."""
        if kind in (build.ILogger, build.Logger):
            return kind
        kept = {
            k: v for k, v in vars(kind).items() if k not in {*absent, "__dict__", "__weakref__"}
        }
        return type(kind.__name__, kind.__bases__, {**kept, "_standin": self})


# Takes what StandIn takes.
Install = Callable[..., StandIn]
