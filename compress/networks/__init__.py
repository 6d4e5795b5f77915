"""The network families that can be compressed, one file each."""

from __future__ import annotations

from compress.networks import deit, swin
from compress.networks.network import Family

FAMILIES: dict[str, Family] = {"deit": deit.FAMILY, "swin": swin.FAMILY}
