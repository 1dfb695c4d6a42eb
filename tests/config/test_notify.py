"""The section ``notify:``."""

from __future__ import annotations

import base64
import importlib.util
from pathlib import Path
from typing import Any

import pytest

from monconn.config.config import Config, parse, parse_file
from monconn.config.explain import explain
from monconn.config.notify import MOST_OUTPUTS, NOTIFY_ON, NotifyConfig
from monconn.errors import ConfigError
from monconn.run.notify import check_notify

PASSWORD = "hunter2hunter2"


def outputs(text: str) -> tuple[NotifyConfig, ...]:
    return parse(
        f'services: {{web: {{listen: ":80", backend: ":81"}}}}\nnotify: {text}', "f"
    ).notify


def problems(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        outputs(text)
    return str(caught.value)


def test_nobody_is_told_by_default() -> None:
    assert Config().notify == ()


def test_an_output() -> None:
    (output,) = outputs(
        f'[{{url: "https://u:{PASSWORD}@example.com:8443/a/{PASSWORD}?b=c", on: [outage, blocked],'
        ' filter: "service:web", secret: 0123456789, per_minute: 5, retry_for: 1h}]'.replace(
            "0123456789", '"0123456789"'
        )
    )
    assert (output.on, output.filter, output.key) == (
        ("outage", "blocked"),
        "service:web",
        b"0123456789",
    )
    assert (output.per_minute, output.retry_for) == (5, 3600.0)
    assert str(output.url) == "https://example.com:8443/..."
    assert PASSWORD not in repr(output)
    assert "0123456789" not in repr(output)


def test_defaults() -> None:
    (output,) = outputs("[{url: 'http://[::1]:80'}]")
    assert (output.on, output.key, output.per_minute, output.retry_for) == (
        ("alarm",),
        None,
        20,
        900.0,
    )
    assert str(output.url) == "http://[::1]:80/"


def test_one_kind_needs_no_list() -> None:
    assert outputs("[{url: 'http://h', on: backend_down}]")[0].on == ("backend_down",)
    assert outputs(f"[{{url: 'http://h', on: [{', '.join(NOTIFY_ON)}]}}]")[0].on == NOTIFY_ON


def test_secrets(tmp_path: Path) -> None:
    key = bytes(range(32))
    standard = f"whsec_{base64.b64encode(key).decode()}"
    assert outputs(f"[{{url: 'http://h', secret: '{standard}'}}]")[0].key == key
    path = tmp_path / "secret"
    path.write_text(f"{standard}\n")
    assert outputs(f"[{{url: 'http://h', secret_file: {path}}}]")[0].key == key
    path.write_bytes(b"\xff" * 20)
    assert "must be a text in UTF-8" in problems(f"[{{url: 'http://h', secret_file: {path}}}]")
    path.write_text("short")
    assert "must have 8 to 1024 bytes" in problems(f"[{{url: 'http://h', secret_file: {path}}}]")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("true", "notify: must be a list of outputs"),
        ("[http://h]", "notify[0]: must be a mapping such as {url: https"),
        ("[{}]", "notify[0].url: is missing"),
        (f"[{{url: 'example.com/{PASSWORD}'}}]", "must be a URL such as"),
        (f"[{{url: 'http:///{PASSWORD}'}}]", "has no host"),
        (f"[{{url: 'http://h:99999/{PASSWORD}'}}]", "is no URL: check its host and port"),
        (f"[{{url: 'http://h:x/{PASSWORD}'}}]", "is no URL: check its host and port"),
        (f"[{{url: 'http://[::1/{PASSWORD}'}}]", "is no URL: check its host and port"),
        (f"[{{url: 'http://a..h/{PASSWORD}'}}]", "is no URL: check its host and port"),
        (f"[{{url: 'http://{'a' * 70}/{PASSWORD}'}}]", "is no URL: check its host and port"),
        (f'[{{url: "http://h/{PASSWORD}\\r\\nX: y"}}]', "printable characters"),
        (f"[{{url: 'http://h/{PASSWORD} x'}}]", "ASCII characters alone"),
        (f"[{{url: 'http://hé/{PASSWORD}'}}]", "ASCII characters alone"),
        (f"[{{url: 'http://h/{PASSWORD * 200}'}}]", "at most 2000"),
        (f"[{{url: 'nosuch://{PASSWORD}'}}]", "is nothing that Apprise can use"),
        ("[{url: 'http://h', on: [outages]}]", "did you mean outage?"),
        ("[{url: 'http://h', on: []}]", "must name at least one of alarm"),
        ("[{url: 'http://h', on: 3}]", '"3" is nothing that is notified'),
        ("[{url: 'http://h', secret: short}]", "must have 8 to 1024 bytes"),
        ("[{url: 'http://h', secret: whsec_***}]", "so base64 must follow"),
        ("[{url: 'http://h', secret: 12345678}]", "must be a text in quotes"),
        ("[{url: 'http://h', secret_file: /nonexistent/s}]", "/nonexistent/s"),
        ("[{url: 'json://h', secret: 0123456789ab}]", "is for webhooks"),
        ("[{url: 'http://h', ca: /etc/hostname}]", "is for https:// alone"),
        ("[{url: 'https://h', ca: /etc/hostname}]", "notify[0].ca: "),
        ("[{url: 'https://h', ca: /nonexistent/ca.pem}]", "/nonexistent/ca.pem"),
        ("[{url: 'http://h', per_minute: 0}]", "must be from 1 to 1000"),
        ("[{url: 'http://h', retry_for: 0}]", "retry_for"),
        ("[{url: 'http://h', uri: x}]", "did you mean url?"),
        (f"[{{http://h/{PASSWORD}: }}]", "notify[0]: has a key that is not known (not shown"),
        (f"[{{url: 'http://h', 'http://h/{PASSWORD}': 1}}]", "not shown here"),
        (f"[{{http://h/{PASSWORD}: , http://h/{PASSWORD}: }}]", "http://...: duplicate key"),
        (f"[{', '.join(['{url: http://h}'] * (MOST_OUTPUTS + 1))}]", "at most 32 outputs"),
    ],
)
def test_mistakes(text: str, expected: str) -> None:
    told = problems(text)
    assert expected in told
    assert PASSWORD not in told


def test_apprise_is_asked_for_by_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec

    def missing(name: str, *more: Any) -> Any:
        return None if name == "apprise" else found(name, *more)

    monkeypatch.setattr(importlib.util, "find_spec", missing)
    told = problems(f"[{{url: 'mailto://me:{PASSWORD}@example.com'}}]")
    assert "pip install 'monconn[notify]'" in told
    assert PASSWORD not in told
    assert outputs("[{url: 'https://example.com/'}]"), "it needs nothing"


def test_explain_shows_no_secret() -> None:
    text = (
        'services: {web: {listen: ":80", backend: ":81"}}\n'
        "notify:\n"
        f"- {{url: 'https://example.com/{PASSWORD}', secret: {PASSWORD}}}\n"
        f"- {{url: 'json://me:{PASSWORD}@example.com'}}\n"
    )
    shown = explain(parse_file(text, "f"))
    settings = [each for section in shown for each in section.settings]
    assert not any(PASSWORD in each.value for each in settings)
    found = {section.path: section for section in shown if section.path.startswith("notify")}
    (url, *_) = found["notify[1]"].settings
    assert (url.value, url.line) == ("json://...", 4)


def test_filters_are_checked_with_their_lines() -> None:
    text = (
        'services: {web: {listen: ":80", backend: ":81"}}\n'
        "notify:\n"
        "- url: http://h\n"
        "  filter: reasn:client_lost\n"
    )
    with pytest.raises(ConfigError, match=r"f:4: notify\[0\].filter: .*reason"):
        check_notify(parse(text, "f"), "f")
    right = parse(text.replace("reasn", "reason"), "f")
    assert check_notify(right, "f") is right
