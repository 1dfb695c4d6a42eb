"""Which client addresses belong to the same device."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import ip_network
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton

from monconn.addresses import Network
from monconn.config.sections import DevicesConfig

CACHED_NAMES = 4_096


class DeviceIdentity:
    """Names the device that a client's IP belongs to.

    :param config: has the prefix lengths of the networks that count as one device.
    """

    def __init__(self, config: DevicesConfig) -> None:
        self._prefix_v4, self._prefix_v6 = config.prefix_v4, config.prefix_v6
        self._mask_v4 = _mask(config.prefix_v4, 32)
        self._mask_v6 = _mask(config.prefix_v6, 128)
        # The same address is looked up again when its connection closes, often soon.
        self._cached_v6 = lru_cache(CACHED_NAMES)(self._network_v6)

    def of(self, client_ip: str) -> str:
        """The IP or its network; anything else (``unix``, an IP with a zone) as it is."""
        if ":" not in client_ip:
            return client_ip if self._prefix_v4 == 32 else self._network_v4(client_ip)
        return client_ip if self._prefix_v6 == 128 else self._cached_v6(client_ip)

    def _network_v6(self, client_ip: str) -> str:
        try:
            packed = inet_pton(AF_INET6, client_ip)
        except OSError:
            return client_ip
        packed = (int.from_bytes(packed, "big") & self._mask_v6).to_bytes(16, "big")
        return f"{inet_ntop(AF_INET6, packed)}/{self._prefix_v6}"

    def _network_v4(self, client_ip: str) -> str:
        try:
            packed = inet_pton(AF_INET, client_ip)
        except OSError:
            return client_ip
        packed = (int.from_bytes(packed, "big") & self._mask_v4).to_bytes(4, "big")
        return f"{inet_ntop(AF_INET, packed)}/{self._prefix_v4}"


def network_of(device: str) -> Network | None:
    """The addresses of a device, by its name; None of one that has none, such as ``unix``."""
    try:
        return ip_network(device.partition("%")[0], strict=False)
    except ValueError:
        return None


def _mask(prefix: int, longest: int) -> int:
    return (1 << longest) - (1 << (longest - prefix))
