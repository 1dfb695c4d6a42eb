"""What names say reaches no terminal of the manhole raw."""

from __future__ import annotations

from monconn.faces.manhole.commands import Commands
from monconn.model.actions import OWN_CODE
from tests.ops.world import World


def test_names_are_printable_in_every_answer() -> None:
    world = World("web")
    world.registry.get("web").name = "\x1b[2J\nforged\u202e"  # none can be made with that name
    (connection,) = world.connect("web", "192.0.2.1")
    written: list[str] = []
    commands = Commands(world.operations, OWN_CODE, written.append)
    commands.stats()
    world.result(commands.show(connection.record.id))
    text = "".join(written)
    assert r"\x1b[2J\nforged\u202e" in text
    assert all(line.isprintable() for line in text.split("\n"))
