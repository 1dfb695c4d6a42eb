"""Which texts name an address of a network: of an action, a fact, a detail."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from monconn.addresses import Network, parse_network
from monconn.errors import AddressError

_IPV4 = re.compile(r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?:/\d{1,2})?(?!\.?\d)")
_IPV6 = re.compile(r"[0-9A-Fa-f]{0,4}:[0-9A-Fa-f:]+(?:(?:\d{1,3}\.){3}\d{1,3})?(?:/\d{1,3})?")


def mentions(network: Network) -> Callable[[str | None], bool]:
    """A function that says whether a text names an IP of a network, or a network within it.

    A network around it does not count: who blocked 10.0.0.0/8 has not named 10.1.2.3.
    """
    # Most texts name no address at all, and most of a single one another one.
    sign = ":" if network.version == 6 else "."
    if network.version == 4 and network.num_addresses == 1:
        sign = str(network.network_address)

    def is_mentioned(text: str | None) -> bool:
        if not text or (sign not in text and "::ffff:" not in text.casefold()):
            return False
        return any(_is_within(each, network) for each in _networks_in(text))

    return is_mentioned


def _is_within(one: Network, network: Network) -> bool:
    return (
        one.version == network.version
        and one.prefixlen >= network.prefixlen
        and one.network_address.packed >= network.network_address.packed
        and one.broadcast_address.packed <= network.broadcast_address.packed
    )


def _networks_in(text: str) -> Iterator[Network]:
    for found in _IPV4.findall(text):
        yield from _parsed(found)
    for found in _IPV6.findall(text):
        # A key of the filter language, or the end of a sentence, may be stuck to it.
        for each in dict.fromkeys((found, found.rstrip(":"), found.partition(":")[2])):
            yield from _parsed(each)


def _parsed(text: str) -> Iterator[Network]:
    try:
        yield parse_network(text)
    except AddressError:  # a time of day, a version
        pass
