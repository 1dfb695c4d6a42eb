"""The addresses of the control port, and their roles."""

from __future__ import annotations

from pathlib import Path

import pytest

from monconn.addresses import UnixAddress
from monconn.config.config import Config, parse, parse_file
from monconn.config.explain import explain
from monconn.config.sections import ControlConfig
from monconn.errors import ConfigError
from monconn.run.check import check_start

SERVICES = 'services: {web: {listen: "127.0.0.1:0", backend: "127.0.0.1:1"}}\n'


def read(text: str) -> tuple[ControlConfig, ...]:
    return parse(f"{SERVICES}control: {text}", "c.yaml").control


def test_one_none_and_several() -> None:
    assert parse(SERVICES, "c.yaml").control == read("true") == (ControlConfig(),)
    assert read("false") == read("[]") == ()
    assert read("{role: view}") == (ControlConfig(role="view"),)
    several = read("[{}, {listen: 'unix:/run/v:mode=660', role: view}]")
    assert several == (
        ControlConfig(),
        ControlConfig(UnixAddress("/run/v", 0o660), role="view"),
    )
    assert Config(control=None).control == ()
    assert Config(control=ControlConfig()).control == (ControlConfig(),)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{role: admin}", 'control.role: must be view or operate, not "admin"'),
        ("[{}, {role: view}]", "control[1].listen: is missing: only one can be at the usual"),
        ("[{}, false]", "control[1]: must be a mapping such as {listen: unix:PATH, role: view}"),
        ("[{listen: '127.0.0.1:1'}]", "control[0].listen: whoever can connect"),
        ("[{rol: view}]", "control[0].rol"),
        (
            "[{listen: 'unix:/run/v'}, {listen: 'unix:/run/v'}]",
            "control[1].listen: cannot listen on unix:/run/v: control listens there already",
        ),
        ("7", "control: must be false, a mapping such as {listen: unix:PATH, role: view}, or a"),
    ],
)
def test_mistakes_say_where_they_are(text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(text)
    assert problem in str(caught.value)


def test_each_address_is_explained() -> None:
    text = f"{SERVICES}control:\n  - {{}}\n  - {{listen: 'unix:/run/v', role: view}}\n"
    sections = {each.path: each for each in explain(parse_file(text, "c.yaml"))}
    assert "control" not in sections
    (role,) = [each for each in sections["control[1]"].settings if each.key == "role"]
    assert (role.value, role.origin, role.line) == ("view", "file", 4)


def test_a_check_tells_who_could_do_everything(tmp_path: Path) -> None:
    def found(text: str) -> list[str]:
        config = parse(f"{SERVICES}control: {text}", "c.yaml")
        return [each.message for each in check_start(config, "c.yaml") if "control" in each.path]

    listen = f"unix:{tmp_path}/c"
    (message,) = found(f"[{{listen: '{listen}:mode=666'}}]")
    assert "lets every user of this machine do everything" in message
    (message,) = found(f"[{{listen: '{listen}:mode=666', role: view}}]")
    assert message.startswith("all may only look")
    assert found(f"[{{listen: '{listen}:mode=660'}}]") == []


def test_a_check_tells_of_a_spread_that_is_longer_than_the_wait() -> None:
    def found(settings: str) -> list[str]:
        service = f'{{listen: "127.0.0.1:0", backend: "127.0.0.1:1", {settings}}}'
        config = parse(f"control: false\nservices: {{web: {service}}}", "c.yaml")
        return [e.message for e in check_start(config, "c.yaml") if e.path[-1] == "spread"]

    assert found("spread: 1m") == []
    (message,) = found("spread: 5m")
    assert message.endswith("wait_timeout of 1m: connections end evenly over 1m")
    (message,) = found("spread: 5m, wait_timeout: 0")
    assert message.endswith("connections all end at once")
