"""What a reload of the configuration has changed, or would change."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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

    def describe(self) -> str:
        """One line for people."""
        return f"{self.name}: {self.old} -> {self.new} ({self.holds})"

    @property
    def name(self) -> str:
        """The key with its section."""
        return self.section if self.key == self.section else f"{self.section}.{self.key}"

    def text(self) -> str:
        """The same, under the title of its kind, with its place."""
        place = f" ({self.place})" if self.place else ""
        return f"{self.name}: {self.old} -> {self.new}{place}"


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

    @property
    def in_force(self) -> tuple[Change, ...]:
        """What runs now as the file says."""
        return tuple(each for each in self.changes if each.holds != "restart")

    @property
    def is_short(self) -> bool:
        """Whether one line has room for each change."""
        lengths = [len(each.old) + len(each.new) for each in self.in_force]
        return len(lengths) <= _TOLD and sum(lengths) <= _TOLD_CHARACTERS

    def describe(self) -> str:
        """What is different now, in one line for logs: each change, or how many there are."""
        restart, in_force = self.needs_restart, self.in_force
        count = len(in_force)
        parts = []
        if self.added:
            parts.append(f"added {_names(self.added)}")
        if self.removed:
            parts.append(f"removed {_names(self.removed)}")
        if self.is_short:
            parts += [f"{each.name}: {each.old} -> {each.new}" for each in in_force]
        else:
            others = {each.section for each in in_force if each.service is None}
            parts.append(f"changed {_names([*self.changed, *sorted(others)])}")
            parts.append(f"{count} setting{'' if count == 1 else 's'}")
        text = ", ".join(parts) or "nothing is different"
        if restart:
            keys = _names([each.name for each in restart])
            text += f"; a restart is needed for {keys}"
        return text

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

    def lines(self) -> list[str]:
        """All of it, for people."""
        would = "would be " if self.dry_run else ""
        lines: list[str] = []
        for holds, title in _TITLES.items():
            of_them = [each for each in self.changes if each.holds == holds]
            if of_them:
                lines.append(title.format(would=would))
                lines += [f"  {each.text()}" for each in of_them]
        if self.added:
            lines.append(f"{would}added: {', '.join(self.added)}")
        if self.removed:
            lines.append(f"{would}removed: {', '.join(self.removed)}")
            lines.append("  no more clients enter; live connections have their wait_timeout")
        lines += [f"note: {each}" for each in self.notes]
        if not self:
            other = "nothing else is" if self.changes else "nothing is"
            lines.append(f"{self.file}: {other} different from what runs")
        return lines

    @classmethod
    def from_json(cls, head: dict[str, Any], changes: Iterable[dict[str, Any]]) -> ReloadResult:
        """The result that a server has sent; what it has of other versions is left out.

        :raises KeyError, TypeError: it cannot be understood.
        """
        keys = [each.name for each in attrs.fields(Change)]
        made = tuple(Change(**{key: each[key] for key in keys}) for each in changes)
        names = {key: tuple(head[key]) for key in ("added", "removed", "changed", "notes")}
        return cls(head["file"], made, **names, dry_run=bool(head["dry_run"]))


_TITLES: dict[Holds, str] = {
    "at once": "{would}changed at once",
    "new connections": "{would}changed for new connections",
    "restart": "needs a restart, and is not changed",
}
_NAMED = 5
_TOLD = 4
_TOLD_CHARACTERS = 200


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{', '.join(names[:_NAMED])}{more}"
