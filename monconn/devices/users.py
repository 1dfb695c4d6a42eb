"""Which devices with names of their own have used an address lately."""

from __future__ import annotations

from itertools import islice

from monconn.devices.heartbeat import Device

MOST_USERS = 100
"""How many devices of one address are named."""


class AddressUsers:
    """Devices by the addresses that they have used last; as a rule each has one of its own."""

    def __init__(self) -> None:
        self._users: dict[str, Device | set[Device]] = {}  # the only one, or several

    def add(self, device: Device, address: str) -> None:
        """A device has used an address."""
        users = self._users.get(address)
        if users is None:
            self._users[address] = device
        elif isinstance(users, set):
            users.add(device)
        elif users is not device:
            self._users[address] = {users, device}

    def remove(self, device: Device, address: str) -> None:
        """An address is none of those that a device has used last any more."""
        users = self._users.get(address)
        if isinstance(users, set):
            users.discard(device)
            if len(users) == 1:
                self._users[address] = users.pop()
        elif users is device:
            del self._users[address]

    def only(self, address: str) -> Device | None:
        """The only device that has used an address; None if there is none, or are several."""
        users = self._users.get(address)
        return users if isinstance(users, Device) else None

    def names(self, address: str) -> list[str]:
        """Their names, in order; not all of more than :data:`MOST_USERS`."""
        users = self._users.get(address)
        if users is None:
            return []
        several = {users} if isinstance(users, Device) else users
        return sorted(each.name for each in islice(several, MOST_USERS))
