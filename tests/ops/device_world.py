"""Services whose devices are watched, and what the operations say of these."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from monconn.config.sections import DevicesConfig, HistoryConfig
from monconn.devices.service import DevicesService
from monconn.ops.device import DeviceStory
from monconn.ops.operations import Operations
from monconn.ops.presence import Presence
from monconn.sinks.history.service import HistoryService

from .world import World


class DeviceWorld(World):
    def __init__(self, *services: str, **config: Any) -> None:
        super().__init__(*services)
        self.devices = DevicesService(DevicesConfig(**config), self.registry, self.clock)
        self.operations = Operations(self.registry, self.clock, devices=self.devices)

    def start_history(self, folder: Path) -> HistoryService:
        """Store from now on what happens; whoever asks for it stops it."""
        from twisted.internet import reactor

        config = HistoryConfig(str(folder / "history.db"))
        history = HistoryService(config, self.registry, reactor, self.clock)
        self.operations = Operations(
            self.registry, self.clock, devices=self.devices, history=history
        )
        history.startService()
        return history

    def story(self, name: str, **arguments: Any) -> DeviceStory:
        result: Any = self.result(self.operations.device(name, **arguments))
        if isinstance(result, DeviceStory):
            return result
        result.raiseException()
        raise AssertionError

    def presence(self, *names: str, **arguments: Any) -> Presence:
        result: Any = self.result(self.operations.presence(names, **arguments))
        if isinstance(result, Presence):
            return result
        result.raiseException()
        raise AssertionError
