"""What a reload of the configuration has changed, or would change."""

from __future__ import annotations

from typing import Any, Literal, get_args

import attrs

Holds = Literal["at once", "new connections", "restart"]
"""For whom a change of a key holds: for all, live connections included; for connections that are
opened from then on; or for none, until the program is started again."""
HOLDS: tuple[Holds, ...] = get_args(Holds)


@attrs.frozen
class Change:
    """One key that is written differently from how it runs.

    :param section: such as ``services.web`` or ``history``.
    :param key: within the section; with a dot for one that is below another one.
    :param old: what runs, as it may be written in a file; secrets are not shown.
    :param new: what the file says.
    :param holds: when the change is in force; nothing is done about one that needs a restart.
    :param service: the service's name, if it is about one.
    :param place: where it is written, as ``FILE:LINE``; empty if it is written nowhere any more.
    """

    section: str
    key: str
    old: str
    new: str
    holds: Holds
    service: str | None = None
    place: str = ""

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return attrs.asdict(self)


@attrs.frozen
class ReloadResult:
    """What a reload has done, or of a dry run, what it would do.

    :param file: the configuration's main file.
    :param changes: those of keys, in the order of the documentation.
    :param added: services that are new.
    :param removed: services that take no more clients; theirs have their ``wait_timeout``.
    :param changed: services that go on, with something different.
    :param notes: what somebody should know, such as a certificate's file that cannot be read any
        more and stays in use as it was read.
    """

    file: str
    changes: tuple[Change, ...] = ()
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    dry_run: bool = False

    @property
    def needs_restart(self) -> tuple[Change, ...]:
        """What the file says and does not run, as it is read at the start only."""
        return tuple(each for each in self.changes if each.holds == "restart")

    def __bool__(self) -> bool:
        """Whether anything is different now."""
        return bool(self.added or self.removed or len(self.changes) > len(self.needs_restart))

    def to_json(self) -> dict[str, Any]:
        """All but the changes, for programs."""
        return {
            "file": self.file,
            "dry_run": self.dry_run,
            "added": list(self.added),
            "removed": list(self.removed),
            "changed": list(self.changed),
            "notes": list(self.notes),
        }
