"""A configuration of several files; paths begin in the folder of the file that has them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monconn.addresses import EndpointAddress, UnixAddress, endpoint_fields, in_folder
from monconn.config import include
from monconn.config.config import ConfigFile, load_file
from monconn.config.explain import explain
from monconn.errors import AddressError, ConfigError
from monconn.policy.tls_endpoints import tls_backend
from tests.properties import examples

WEB = "services: {web: {listen: ':0', backend: ':9'}}\n"


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder / "monconn.yaml"


def loaded(folder: Path, **files: str) -> ConfigFile:
    return load_file(
        write(folder, {name.replace("_", "/") + ".yaml": t for name, t in files.items()})
    )


def problems(folder: Path, files: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is wrong, where the main file is named as in its folder."""
    write(folder, files)
    monkeypatch.chdir(folder)
    with pytest.raises(ConfigError) as caught:
        load_file("monconn.yaml")
    return [str(each).replace(f"{folder}/", "") for each in caught.value.problems]


def test_files_and_folders_are_one_configuration(tmp_path: Path) -> None:
    file = loaded(
        tmp_path,
        monconn="include: [d, more.yaml]\ndefaults: {max_idle: 5m}\n",
        d_b="services: {b: {listen: ':0', backend: ':9'}}\n",
        d_a="include: deep/one.yaml\nservices: {a: {listen: ':0', backend: ':9'}}\n",
        d_deep_one="services: {deep: {listen: ':0', backend: ':9'}}\nhistory: {path: h.db}\n",
        more=WEB + "devices: {kept: 7}\n",
    )
    (tmp_path / "d" / "c.yml").write_text("services: {c: {listen: ':0', backend: ':9'}}\n")
    (tmp_path / "d" / ".hidden.yaml").write_text("nonsense: 1")
    (tmp_path / "d" / "b.yaml~").write_text("nonsense: 1")
    config = load_file(file.source).config
    assert [each.name for each in config.services] == ["a", "deep", "b", "c", "web"]
    assert {each.policy.timeouts.max_idle for each in config.services} == {300.0}
    assert config.devices.kept == 7
    assert config.history is not None
    assert config.history.path == str(tmp_path / "d" / "deep" / "h.db")
    assert [os.path.relpath(each, tmp_path) for each in file.stamps] == [
        "monconn.yaml",
        "d/a.yaml",
        "d/deep/one.yaml",
        "d/b.yaml",
        "more.yaml",
    ]


def test_each_setting_is_told_with_its_file(tmp_path: Path) -> None:
    file = loaded(tmp_path, monconn="include: web.yaml\ndefaults: {max_idle: 5m}\n", web=f"\n{WEB}")
    web = explain(file)[0]
    found = {
        each.key: (each.origin, os.path.basename(each.file or ""), each.line)
        for each in web.settings
    }
    assert found["listen"] == ("file", "web.yaml", 2)
    assert found["max_idle"] == ("defaults", "monconn.yaml", 2)
    assert found["conn_limit"] == ("built_in", "", None)


WRONG = {
    "a service twice": (
        {"monconn.yaml": "include: [a.yaml, b.yaml]\n", "a.yaml": WEB, "b.yaml": WEB},
        ["b.yaml:1: services.web: duplicate key, first at a.yaml:1: keep one"],
    ),
    "a section twice": (
        {"monconn.yaml": f"include: a.yaml\n{WEB}capture: false\n", "a.yaml": "\ncapture: false\n"},
        ["a.yaml:2: capture: duplicate key, first at monconn.yaml:3: keep one"],
    ),
    "each problem has its file": (
        {
            "monconn.yaml": "include: [a.yaml, d]\nmetrics: 7\n",
            "a.yaml": "services:\n  web: {listen: ':0', backend: ':9', max_idle: soon}\n",
            "d/b.yaml": "\nnonsense: 7\nservices: [\n",
            "d/c.yaml": "- a list\n",
        },
        [
            "monconn.yaml:2: metrics: must be a mapping of settings, not a number",
            "a.yaml:2: services.web.max_idle: must be a number of seconds",
            "d/b.yaml:4: not valid YAML",
            "d/c.yaml:1: must be a mapping of sections, such as services:",
        ],
    ),
    "none": ({"monconn.yaml": "include: []\n"}, ["monconn.yaml:1: services: no services: write"]),
    "an empty folder": (
        {"monconn.yaml": "include: d\n", "d/x.txt": ""},
        ["monconn.yaml:1: services: no services: write"],
    ),
    "missing": (
        {"monconn.yaml": f"include:\n- none.yaml\n{WEB}"},
        ['monconn.yaml:2: include: "none.yaml" cannot be read: No such file or directory'],
    ),
    "itself": (
        {"monconn.yaml": f"include: monconn.yaml\n{WEB}"},
        ['monconn.yaml:1: include: "monconn.yaml" includes itself'],
    ),
    "in a circle": (
        {"monconn.yaml": "include: a.yaml\n", "a.yaml": f"include: monconn.yaml\n{WEB}"},
        ['a.yaml:1: include: "monconn.yaml" includes itself, by way of "a.yaml"'],
    ),
    "twice": (
        {"monconn.yaml": "include: [a.yaml, ./a.yaml]\n", "a.yaml": WEB},
        ['monconn.yaml:1: include: "./a.yaml" is included already, at monconn.yaml:1'],
    ),
    "no path": (
        {"monconn.yaml": f"include: [[a], '', {{a: b}}]\n{WEB}"},
        ["monconn.yaml:1: include[0]: must be the path of", "", ""],
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, said = WRONG[case]
    found = problems(tmp_path, files, monkeypatch)
    assert len(found) == len(said), found
    for one, text in zip(found, said, strict=True):
        assert one.startswith(text)


def test_depth_number_and_size_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chain = {f"{n}.yaml": f"include: {n + 1}.yaml\n" for n in range(20)}
    (deep,) = problems(tmp_path, {"monconn.yaml": f"include: 0.yaml\n{WEB}", **chain}, monkeypatch)
    assert "more than 8 levels deep" in deep
    monkeypatch.setattr(include, "MAX_FILES", 3)
    many = {f"d/{n}.yaml": "# nothing\n" for n in range(5)}
    found = problems(tmp_path, {"monconn.yaml": f"include: d\n{WEB}", **many}, monkeypatch)
    assert [each.partition(": at")[2] for each in found] == [" most 3 files are included"]
    monkeypatch.setattr(include, "MAX_BYTES", 100)
    monkeypatch.setattr(include, "MAX_FILES", 1000)
    big = {f"d/{n}.yaml": "#" * 100 for n in range(5)} | {"monconn.yaml": f"include: d\n{WEB}"}
    (size,) = problems(tmp_path, big, monkeypatch)
    assert "all files together are too big" in size


def test_a_service_of_the_go_tool_may_be_called_include(tmp_path: Path) -> None:
    file = loaded(tmp_path, monconn="include: {listen_port: 80, backend_port: 81}\n")
    assert [each.name for each in file.config.services] == ["include"]


def test_paths_begin_in_the_folder_of_their_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever monconn is started."""
    monkeypatch.chdir("/")
    config = loaded(
        tmp_path,
        monconn="include: d/more.yaml\nmanhole: {listen: 'unix:m.sock', authorized_keys: keys}\n"
        "services: {web: {listen: 'unix:web.sock', backend: 'unix:/run/x.sock'}}\n",
        d_more="json_log: {path: ./log}\ncapture: {folder: ../captures}\nhistory: {path: ~/h.db}\n",
    ).config
    assert [each.listen for each in config.services] == [UnixAddress(f"{tmp_path}/web.sock")]
    assert [str(each.backend) for each in config.services] == ["unix:/run/x.sock"]
    assert config.manhole is not None
    assert config.manhole.listen == UnixAddress(f"{tmp_path}/m.sock")
    assert config.manhole.authorized_keys == f"{tmp_path}/keys"
    assert config.json_log is not None
    assert config.json_log.path == f"{tmp_path}/d/./log"
    assert config.capture is not None
    assert config.capture.folder == f"{tmp_path}/d/../captures"
    assert config.history is not None
    assert config.history.path == "~/h.db"


@pytest.mark.parametrize("output", ["stdout", "syslog"])
def test_other_outputs_are_no_paths(output: str, tmp_path: Path) -> None:
    config = loaded(tmp_path, monconn=f"{WEB}json_log: {{path: {output}}}\n").config
    assert config.json_log is not None
    assert config.json_log.path == output


@pytest.mark.parametrize(
    ("text", "listens", "becomes"),
    [
        (
            "ssl:443:privateKey=k.pem:certKey=/c.pem",
            True,
            "ssl:443:privateKey=/f/k.pem:certKey=/c.pem",
        ),
        ("tls:host:443:trustRoots=ca", False, "tls:host:443:trustRoots=/f/ca"),
        ("tls:folder:443", True, "tls:/f/folder:443"),
        ("unix:s:lockfile=0", True, "unix:/f/s:lockfile=0"),
        ("tcp:80:interface=::1", True, "tcp:80:interface=::1"),
        (r"ssl:443:privateKey=a\:b.pem", True, r"ssl:443:privateKey=/f/a\:b.pem"),
    ],
)
def test_paths_within_endpoint_strings(text: str, listens: bool, becomes: str) -> None:
    assert str(in_folder(EndpointAddress(text), "/f", listens=listens)) == becomes


def test_a_backend_s_files_of_tls_are_found(tmp_path: Path) -> None:
    address = in_folder(EndpointAddress("tls:host:443:trustRoots=ca.pem"), "/x", listens=False)
    found = tls_backend(address)
    assert found is not None
    assert found[1].ca == "/x/ca.pem"


def test_a_socket_s_path_may_be_too_long_then() -> None:
    with pytest.raises(AddressError, match="a UNIX socket's path at most"):
        in_folder(UnixAddress("x.sock"), "/" + "y" * 110, listens=True)


@given(st.text(max_size=30), st.booleans())
@settings(max_examples=examples(200), deadline=None)
def test_fields_of_any_string_stay_the_same_but_for_paths(text: str, listens: bool) -> None:
    address = in_folder(EndpointAddress(text), "/f", listens=listens)
    before, after = endpoint_fields(text), endpoint_fields(str(address))
    assert len(before) == len(after)
    for (key, equals, value), (new_key, new_equals, new_value) in zip(before, after, strict=True):
        assert new_equals == equals
        assert new_key in (key, os.path.join("/f", key))
        assert new_value in (value, os.path.join("/f", value))
