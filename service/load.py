"""What is under way, and how long it will take by what pictures and networks took lately."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

# How much a new measurement counts against all earlier ones.
_NEWEST: Final = 0.1
# How much of an estimate remains each time that it alone keeps a request out.
_DOUBTED: Final = 0.95
# What a picture of any size takes beside its pixels, in pixels: opening it, and making an input of
# it. Without this a few icons would make every photo seem to take minutes.
_BESIDE_PX: Final = 200_000


class Mean:
    """A mean of what was measured lately; zero before anything was."""

    def __init__(self) -> None:
        self.value = 0.0
        self._known = False

    def add(self, value: float) -> None:
        """Take up one measurement."""
        self.value += (_NEWEST if self._known else 1.0) * (value - self.value)
        self._known = True

    def doubt(self) -> None:
        """Believe it less."""
        self.value *= _DOUBTED


class Estimates:
    """How long one picture takes, in seconds of one thread or of one call."""

    def __init__(self) -> None:
        self._picture = Mean()
        self._per_pixel = Mean()
        self._infer: dict[str, Mean] = {}

    def decode_s(self, pixels: float | None = None) -> float:
        """Return what decoding takes, of a picture of so many pixels or of any."""
        if pixels is None:
            return self._picture.value
        return (pixels + _BESIDE_PX) * self._per_pixel.value

    def infer_s(self, model: str) -> float:
        """Return what a network takes for one picture, where calls run side by side each."""
        return self._infer[model].value if model in self._infer else 0.0

    def decoded(self, pixels: float, seconds: float) -> None:
        """Learn what one picture took."""
        self._picture.add(seconds)
        self._per_pixel.add(seconds / (pixels + _BESIDE_PX))

    def inferred(self, model: str, pictures: int, seconds: float) -> None:
        """Learn what one call took."""
        self._infer.setdefault(model, Mean()).add(seconds / pictures)

    def doubt(self, model: str) -> None:
        """Believe less in what keeps requests out: what is refused is never measured."""
        for mean in (self._picture, self._infer.get(model, Mean())):
            mean.doubt()


@dataclass
class Load:
    """What is under way.

    Args:
        requests: Admitted and not answered yet.
        bytes: What their pictures take, encoded.
        decode_s: What is left to decode, in seconds of one thread.
        infer_s: What is left for networks, in seconds of one call.
    """

    requests: int = 0
    bytes: int = 0
    decode_s: float = 0.0
    infer_s: float = 0.0


class Part:
    """What one picture still costs.

    Args:
        load: Of which it is a part.
        decode_s: What decoding it will take.
        infer_s: What the network will take for it.
    """

    def __init__(self, load: Load, decode_s: float, infer_s: float) -> None:
        self._load = load
        self.decode_s = 0.0
        self.infer_s = 0.0
        self.expect(decode_s, infer_s)

    def expect(self, decode_s: float, infer_s: float) -> None:
        """Say what is left of it."""
        self._load.decode_s += decode_s - self.decode_s
        self._load.infer_s += infer_s - self.infer_s
        self.decode_s, self.infer_s = decode_s, infer_s

    def is_decoded(self) -> None:
        """Say that only the network is left."""
        self.expect(0.0, self.infer_s)

    def is_done(self) -> None:
        """Say that nothing is left."""
        self.expect(0.0, 0.0)
