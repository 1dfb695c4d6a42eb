"""``monconn reload``, over the control port of a program that runs a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import pytest_twisted
from click.testing import CliRunner, Result
from twisted.internet.threads import deferToThread

from monconn.faces.cli.main import main
from monconn.faces.control.client import Client
from monconn.faces.manhole.commands import run as run_at_manhole
from monconn.run import reload
from tests.run.reloading import ADMIN, World


class Controlled(World):
    """The same, with a control port."""

    def config(self, web: dict[str, Any] | None = None, **sections: Any) -> dict[str, Any]:
        control = {"listen": f"unix:{self.folder}/control"}
        return super().config(web, **{"control": control, **sections})

    async def monconn(self, *arguments: str) -> Result:
        """Run the command in a thread, as it waits for the answer."""
        where = ["--control", f"unix:{self.folder}/control"]
        result: Result = await deferToThread(CliRunner().invoke, main, [*arguments, *where])
        return result


@pytest_twisted.async_yield_fixture
async def world(tmp_path: Path) -> Any:
    with (
        patch.object(reload, "SETTLE_SECONDS", 0.0),
        patch("monconn.run.supervisor.PAUSES_SECONDS", ()),
    ):
        made = Controlled(tmp_path)
        yield made
        await made.stop()


@pytest_twisted.ensureDeferred
async def test_what_has_changed_is_told_by_when_it_holds(world: Controlled) -> None:
    log = str(world.folder / "log")
    world.start(world.config())
    result = await world.monconn("reload")
    assert (result.exit_code, result.stdout) == (
        0,
        f"{world.file}: nothing is different from what runs\n",
    )
    changed = world.config({"max_idle": "5m", "backend": world.b}, json_log={"path": log})
    changed["services"]["ssh"] = world.service()
    world.write(changed)
    foreseen = await world.monconn("reload", "--dry-run")
    assert foreseen.exit_code == 0
    place = f"({world.file}:1)"
    assert foreseen.stdout.splitlines() == [
        "would be changed at once",
        f"  services.web.max_idle: 15m -> 5m {place}",
        "would be changed for new connections",
        f"  services.web.backend: {world.a} -> {world.b} {place}",
        "needs a restart, and is not changed",
        f"  json_log: off -> on {place}",
        "would be added: ssh",
    ]
    assert world.monitor().policy.timeouts.max_idle == 900.0
    with patch("monconn.faces.cli.reload.terminal_width", return_value=60):
        narrow = (await world.monconn("reload", "--dry-run")).stdout
    assert "".join(narrow.split()) == "".join(foreseen.stdout.split())
    assert max(map(len, narrow.splitlines())) <= 60
    result = await world.monconn("reload")
    assert result.stdout == foreseen.stdout.replace("would be ", "")
    assert world.monitor().policy.timeouts.max_idle == 300.0
    world.write(world.config({"max_idle": "5m", "backend": world.b}))
    result = await world.monconn("reload")
    assert result.stdout.startswith("removed: ssh\n  no more clients enter;")


@pytest_twisted.ensureDeferred
async def test_json(world: Controlled) -> None:
    world.start(world.config())
    world.write(world.config(devices={"kept": 7}))
    result = await world.monconn("reload", "--json", "--dry-run")
    assert (result.exit_code, json.loads(result.stdout)) == (
        0,
        {
            "file": str(world.file),
            "dry_run": True,
            "added": [],
            "removed": [],
            "changed": [],
            "notes": [],
            "changes": [
                {
                    "section": "devices",
                    "key": "kept",
                    "old": "100000",
                    "new": "7",
                    "holds": "at once",
                    "service": None,
                    "place": f"{world.file}:1",
                }
            ],
        },
    )


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("dry_run", [True, False])
async def test_a_bad_file_is_status_2_with_every_problem(world: Controlled, dry_run: bool) -> None:
    world.start(world.config())
    world.write("services: {web: {listen: ':0'}}\nmetrics: 7\n")
    arguments = ["reload", *(["--dry-run"] if dry_run else [])]
    result = await world.monconn(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.splitlines() == [
        f"{world.file}:1: services.web.backend: is missing, and has no default",
        f"{world.file}:2: metrics: must be a mapping of settings, not a number",
        "monconn: nothing was changed",
    ]
    result = await world.monconn(*arguments, "--json")
    assert result.exit_code == 2
    problems = json.loads(result.stdout)["problems"]
    assert [(each["line"], each["path"]) for each in problems] == [
        (1, "services.web.backend"),
        (2, "metrics"),
    ]


@pytest_twisted.ensureDeferred
async def test_many_changes_come_in_pages(world: Controlled) -> None:
    many = {**world.config(), "services": {f"s{n}": world.service() for n in range(20)}}
    world.start(many)
    for each in many["services"].values():
        each["max_idle"] = "5m"
    world.write(many)
    with patch("monconn.faces.control.pages.PAGE_BYTES", 1000):
        result = await world.monconn("reload", "--json")
    changes = json.loads(result.stdout)["changes"]
    assert [each["service"] for each in changes] == list(many["services"])


@pytest_twisted.ensureDeferred
async def test_what_is_not_the_file_s_fault_is_status_1(world: Controlled) -> None:
    world.start(world.config())
    world.write(world.config({"listen": world.a, "backend": world.b}))
    result = await world.monconn("reload")
    assert result.exit_code == 1
    assert f"{world.file}:1: services.web.listen: cannot listen on {world.a}" in result.stderr


@pytest_twisted.ensureDeferred
async def test_at_the_manhole(world: Controlled) -> None:
    app = world.start(world.config())
    world.write(world.config({"max_idle": "5m"}))
    answer = await run_at_manhole("reload --dry-run", app.operations, ADMIN)
    assert (answer.status, answer.out.splitlines()[0]) == (0, "would be changed at once")
    world.write("services: 7\n")
    answer = await run_at_manhole("reload", app.operations, ADMIN)
    assert (answer.status, answer.out) == (1, "")
    assert answer.err.startswith(f"{world.file}:1: services: must be a mapping of names")


@pytest_twisted.ensureDeferred
async def test_an_older_server_is_told_so(world: Controlled) -> None:
    world.start(world.config())
    greet = Client._greet

    def without(self: Client) -> dict[str, str]:
        return {key: value for key, value in greet(self).items() if key != "pauses"}

    with patch.object(Client, "_greet", without):
        result = await world.monconn("reload")
    assert result.exit_code == 1
    assert "too old for reload" in result.output
