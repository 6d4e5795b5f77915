"""Answer requests of the Open Inference Protocol with the models of a gateway."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from service.answer import Inferred, Source
from service.errors import Code, GatewayError, shown
from service.executors.executor import Images, Model
from service.gateway import Gateway
from service.ledger import Ledger
from service.oip import describe
from service.oip.statistics import Statistics
from service.oip.tensors import Tensor, batch, refusal
from service.settings import Settings

# Of a version; no repository comes near it.
_MAX_DIGITS: Final = 18
_US: Final = 1e-6


@dataclass(frozen=True)
class Request:
    """What a request brings.

    Args:
        inputs: Its tensors.
        outputs: Names of the outputs it wants; empty for all.
        timeout_us: How long it waits from now, in microseconds; None or 0 where it does not say.
    """

    inputs: Sequence[Tensor]
    outputs: Sequence[str] = ()
    timeout_us: int | None = None


class OpenInference:
    """Serves the protocol.

    Args:
        gateway: What answers.
        settings: Limits.
    """

    def __init__(self, gateway: Gateway, settings: Settings) -> None:
        self._gateway = gateway
        self._settings = settings
        self._statistics = Statistics()

    @property
    def ready(self) -> bool:
        """Whether the default model can be asked."""
        return self._gateway.ready

    def is_ready(self, name: str, version: str = "") -> bool:
        """Whether a model can be asked.

        Raises:
            GatewayError: There is no such model or version.
        """
        try:
            self.find(name, version)
        except GatewayError as error:
            if error.code in (Code.MODEL_UNAVAILABLE, Code.EXECUTOR_UNAVAILABLE):
                return False
            raise
        return True

    def find(self, name: str, version: str = "") -> Model:
        """Return a model by its name, and by its version where one is named.

        Of an alias it is the model that answers most.

        Raises:
            GatewayError: There is none, or it cannot be asked for now.
        """
        catalogue = self._gateway.catalogue
        return catalogue.find(catalogue.foremost(name), _number(version))

    def metadata(self, name: str, version: str = "") -> describe.Json:
        """Say what a model takes and gives.

        Raises:
            GatewayError: As for :meth:`find`.
        """
        return describe.metadata(self.find(name, version), self._gateway.executor_name)

    def config(self, name: str, version: str = "") -> describe.Json:
        """Say how a model is configured, as Triton says it, with its card.

        Raises:
            GatewayError: As for :meth:`find`.
        """
        return describe.config(self.find(name, version), self._gateway.executor_name)

    def index(self, *, ready: bool = False) -> list[describe.Json]:
        """List the models.

        Args:
            ready: Whether to leave out those that cannot be asked.
        """
        unavailable = {} if ready else self._gateway.unavailable
        return describe.index(self._gateway.models, unavailable)

    def statistics(self, name: str = "", version: str = "") -> list[describe.Json]:
        """Say how often a model, or each, was asked through this protocol, and how long it took.

        Raises:
            GatewayError: As for :meth:`find`.
        """
        models = [self.find(name, version)] if name else self._gateway.models.values()
        return [self._statistics.of(model) for model in models]

    async def infer(
        self, name: str, version: str, source: Source[Request], ledger: Ledger
    ) -> Inferred:
        """Run a network on what a request brings.

        Args:
            name: Of the model.
            version: The version that must answer; empty for whichever is served.
            source: Gives the request.
            ledger: Gets the time of every stage; begun by who asks.

        Returns:
            The outputs that were wanted, in that order.

        Raises:
            GatewayError: There is no answer; its code says why.
            GoneError: The source said so.
        """
        number = self._number(name, version)
        came: list[_Came] = []

        async def read() -> Callable[[Model], Images | list[bytes]]:
            request = await source.read()

            def batch_for(model: Model) -> Images | list[bytes]:
                _require_outputs(model, request.outputs)
                images = batch(model, request.inputs, self._settings.max_body_bytes)
                came.append(_Came(model, request.outputs, len(images)))
                if request.timeout_us:
                    ledger.limit(request.timeout_us * _US)
                return images

            return batch_for

        try:
            inferred = await self._gateway.infer(
                name, Source(read, source.most_bytes), ledger, number
            )
        except GatewayError:
            if came:
                self._statistics.failed(came[0].model, ledger)
            raise
        [request] = came
        self._statistics.answered(inferred, request.pictures)
        # The gateway goes on with a newer version where one came meanwhile.
        if number not in (None, inferred.version):
            self._gateway.catalogue.find(inferred.model, number)
        return _chosen(inferred, request.wanted)

    def _number(self, name: str, version: str) -> int | None:
        try:
            return _number(version)
        except GatewayError as error:
            self._gateway.refused(None, name, error.code.value)
            raise


@dataclass(frozen=True)
class _Came:
    """What a request turned out to be, once it was read."""

    model: Model
    wanted: Sequence[str]
    pictures: int


def _number(version: str) -> int | None:
    """Return a version as a number; None where none is named."""
    if not version:
        return None
    if not (version.isascii() and version.isdecimal()) or len(version) > _MAX_DIGITS:
        raise refusal(f"Expected a version as a whole number, got {shown(version)}.")
    return int(version)


def _require_outputs(model: Model, names: Sequence[str]) -> None:
    known = [output.name for output in model.outputs]
    for name in names:
        if name not in known:
            raise _no_output(model.name, name, known)
    if len({*names}) < len(names):
        raise refusal("Expected each output once, one is asked for twice.")


def _chosen(inferred: Inferred, names: Sequence[str]) -> Inferred:
    """Return the outputs that are wanted, in that order; where none is named all."""
    if not names:
        return inferred
    # A version that came meanwhile may have others.
    for name in names:
        if name not in inferred.outputs:
            raise _no_output(inferred.model, name, inferred.outputs)
    return replace(inferred, outputs={name: inferred.outputs[name] for name in names})


def _no_output(model: str, name: str, known: Iterable[str]) -> GatewayError:
    return refusal(f"The model {model!r} has no output {shown(name)}. It has: {', '.join(known)}.")
