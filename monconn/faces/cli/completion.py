"""Completion in bash, zsh and fish: ``monconn completion SHELL``, and the values that are offered.

click calls this program for each TAB, with what is typed in the environment. Values of the running
monconn (services, ids, devices, …) are asked for then: silently, whatever fails, and within bounds,
as somebody waits. What a shell would have to quote is not offered: it is put into the command line
as it is.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, Literal

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ShellComplete,
    ZshComplete,
    add_completion_class,
    get_completion_class,
    split_arg_string,
)

from monconn.errors import printable
from monconn.faces.cli.output import print_text
from monconn.faces.control.client import Client, find_server
from monconn.model.record import OWN_FACTS, PROTOCOLS
from monconn.ops.filters import Keys, complete

MOST_VALUES = 100
ASK_SECONDS = 1.0
"""How long connecting, and each answer of a running monconn, may take."""
_SHELLS = ("bash", "zsh", "fish")
_ID_DIGITS = 6
"""Ids are looked for up to so many digits longer than what is typed."""
_SAFE = re.compile(r"[\w.,:/@%+=-]+", re.ASCII)
_HELP_CHARACTERS = 60

Complete = Callable[[click.Context, click.Parameter, str], "list[CompletionItem[str]]"]


@click.command()
@click.argument("shell", type=click.Choice(_SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script for completion in a SHELL.

    It completes verbs, options, filters and values of the running monconn. For bash, for example:
    eval "$(monconn completion bash)"
    """
    kind = get_completion_class(shell)
    assert kind is not None
    made = kind(context.find_root().command, {}, "monconn", "_MONCONN_COMPLETE").source()
    print_text(f"{made.strip()}\n")


# -- values that need nobody


def files(context: click.Context, parameter: click.Parameter, incomplete: str) -> Any:
    """Paths: the shell knows them."""
    return [CompletionItem(incomplete, type="file")]


def choices(values: Iterable[str]) -> Complete:
    """Completes one of a closed list, where an argument may be something else as well."""
    return lambda context, parameter, incomplete: _matching(values, incomplete)


# -- values of running monconns


def pids(context: click.Context, parameter: click.Parameter, incomplete: str) -> Any:
    """The process ids of those that run, with their services and commands."""
    found = {
        str(instance.pid): f"{said.services_text()}: {instance.short_command}"
        for instance, said in _instances()
        if instance.pid
    }
    return _matching(found, incomplete)


def instance_names(context: click.Context, parameter: click.Parameter, incomplete: str) -> Any:
    """The names of the services of those that run."""
    names = {
        name: f"pid {instance.pid}: {instance.short_command}"
        for instance, said in _instances()
        for name in said.services or ()
    }
    return _matching(names, incomplete)


def services(context: click.Context, parameter: click.Parameter, incomplete: str) -> Any:
    """The services of the monconn that is asked."""
    return _matching(_services(context), incomplete)


def clients(context: click.Context, parameter: click.Parameter, incomplete: str) -> Any:
    """The IPs of clients that are connected."""
    return _matching(_client_ips(context), incomplete)


def devices(context: click.Context, parameter: click.Parameter, incomplete: str) -> Any:
    """The devices, by the name that the device's connections are found by."""
    return _matching(_devices(context), incomplete)


def blocked(context: click.Context, parameter: click.Parameter, incomplete: str) -> Any:
    """The networks that are blocked."""
    found = {
        str(row.get("network")): f"by {row.get('source')}{': ' if row.get('reason') else ''}"
        f"{row.get('reason') or ''}"
        for row in _rows(context, "ListBlocks")
    }
    return _matching(found, incomplete)


def captures(context: click.Context, parameter: click.Parameter, incomplete: str) -> Any:
    """The captures that run, and what they are of."""
    found = {
        str(row.get("id")): str(row.get("filter"))
        for row in _rows(context, "ListCaptures")
        if row.get("state") != "done"
    }
    return _matching(found, incomplete)


def outputs(context: click.Context, parameter: click.Parameter, incomplete: str) -> Any:
    """The outputs of notifications, and where they go."""
    found = {str(row.get("number")): str(row.get("url")) for row in _rows(context, "ListOutputs")}
    return _matching(found, incomplete)


def tokens(context: click.Context, parameter: click.Parameter, incomplete: str) -> Any:
    """The tokens of the HTTP API, and what they may do."""
    found = {str(row.get("name")): str(row.get("role")) for row in _rows(context, "ListTokens")}
    return _matching(found, incomplete)


def connection_ids(context: click.Context, parameter: click.Parameter, incomplete: str) -> Any:
    """The ids of live connections, and then of those closed lately, with their clients."""
    return _matching(_ids(context, incomplete), incomplete)


def terms(keys: Keys, or_else: Literal["", "ids", "services"] = "") -> Complete:
    """Completes a term of a filter.

    :param or_else: what may be given as well: ids of live connections, or names of services.
    """

    def offered(
        context: click.Context, parameter: click.Parameter, incomplete: str
    ) -> list[CompletionItem[str]]:
        others: dict[str, str] = {}
        if or_else == "ids" and (not incomplete or incomplete.isdigit()):
            others = _ids(context, incomplete, closed=False)
        elif or_else == "services" and ":" not in incomplete:
            others = _services(context, incomplete)
        known = _known_values(context, incomplete)
        return _matching(others, incomplete) + _matching(complete(incomplete, keys, known), "")

    return offered


def _known_values(context: click.Context, incomplete: str) -> dict[str, Collection[str]]:
    """The names of facts, or the values of the key that is typed, as far as they are known."""
    key, colon, value = incomplete.lower().removeprefix("not:").partition(":")
    if not colon:
        return {"fact": OWN_FACTS}
    known = _VALUES.get(key)
    return {} if known is None else {key: list(known(context, value))}


def _ids(context: click.Context, typed: str, *, closed: bool | None = None) -> dict[str, str]:
    """Ids that begin with what is typed; live ones first.

    :param closed: only those that are closed, or only live ones.
    """
    if typed and not (typed.isascii() and typed.isdigit()):
        return {}
    # The control port knows no prefixes, but ranges: those of 12 are 12, 120..129, 1200..1299, …
    ranges = " ".join(
        f"id:{int(typed) * 10**digits}..{(int(typed) + 1) * 10**digits - 1}"
        for digits in range(_ID_DIGITS if typed else 0)
    )
    found: dict[str, str] = {}
    for each in (False, True) if closed is None else (closed,):
        arguments = {"limit": MOST_VALUES, "filter": ranges or None, "closed": each or None}
        if each:
            arguments["sort"] = "closed"  # the latest first
        for row in _rows(context, "ListConnections", **arguments):
            how = row.get("reason") if each else row.get("state")
            text = f"{row.get('client')} {row.get('service')} {how}"
            found.setdefault(str(row.get("id")), text)
    return found


def _services(context: click.Context, typed: str = "") -> dict[str, str]:
    return {
        str(row.get("sid")): f"{row.get('listen')} to {row.get('backend')}"
        for row in _rows(context, "ListServices")
    }


def _client_ips(context: click.Context, typed: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for row in _rows(context, "ListConnections", limit=10 * MOST_VALUES):
        found.setdefault(str(row.get("client_ip")), str(row.get("service")))
    return found


def _devices(context: click.Context, typed: str = "") -> dict[str, str]:
    found = {}
    for row in _rows(context, "ListDevices"):
        alarms = row.get("alarms") or ()
        about = " ".join(map(str, (row.get("service"), *alarms)))
        found[str(row.get("device"))] = about
        for other in (row.get("name"), *(row.get("addresses") or ())):
            if other:
                found.setdefault(str(other), f"{row.get('device')}, {about}")
    return found


def _mqtt_client_ids(context: click.Context, typed: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for closed in (None, True):
        for row in _rows(
            context,
            "ListConnections",
            limit=10 * MOST_VALUES,
            closed=closed,
            filter="protocol:mqtt",
        ):
            name = (row.get("facts") or {}).get("mqtt_client_id")
            if name:
                found.setdefault(str(name), str(row.get("client_ip")))
    return found


_VALUES: Mapping[str, Callable[[click.Context, str], Mapping[str, str]]] = {
    "service": _services,
    "client": _client_ips,
    "device": _devices,
    "mqtt_client_id": _mqtt_client_ids,
    "protocol": lambda context, typed: dict.fromkeys(PROTOCOLS, ""),
    "id": lambda context, typed: _ids(context, typed),
}


def _rows(context: click.Context, command: str, **arguments: Any) -> Iterator[dict[str, Any]]:
    """The rows on the first page of a list; none if anything is wrong: a TAB tells no errors."""
    try:
        with Client(find_server(_address(context)), ASK_SECONDS) as server:
            rows = json.loads(server.call(command, **arguments)["rows"])
    except Exception:
        return iter(())
    return (row for row in rows if isinstance(row, dict))


def _address(context: click.Context) -> str | None:
    """What the options that choose a server say so far."""
    given = context.params
    if given.get("server_pid"):
        return f"pid:{given['server_pid']}"
    if given.get("server_name"):
        return f"name:{given['server_name']}"
    return given.get("control")


def _instances() -> list[Any]:
    from monconn.faces.control import instances

    try:
        return instances.ask_each(instances.running())
    except Exception:
        return []


def _matching(values: Iterable[str], incomplete: str) -> list[CompletionItem[str]]:
    """Those values that can go on from what is typed, with their help if they have any."""
    helps = values if isinstance(values, Mapping) else dict.fromkeys(values, "")
    found: list[CompletionItem[str]] = []
    for value, help_text in helps.items():
        if value.casefold().startswith(incomplete.casefold()) and _SAFE.fullmatch(value):
            text = printable(help_text)[:_HELP_CHARACTERS]
            found.append(CompletionItem(value, help=text or None))
            if len(found) == MOST_VALUES:
                break
    return found


# -- what a shell calls, and what it is told


class _Silent(ShellComplete):
    """No error of ours may appear in the middle of a command line that somebody types."""

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem[str]]:
        """What is offered; nothing if that fails."""
        try:
            return super().get_completions(args, incomplete)
        except Exception:
            return []


class Bash(_Silent, BashComplete):
    """bash, which makes each colon and each ``=`` a word, and replaces only what follows it.

    The whole line is passed, to be split here; of the values, only what follows is printed. After a
    value that ends with a colon, as ``client:``, bash puts no blank.
    """

    source_template = """\
%(complete_func)s() {
    local IFS=$'\\n' response type value
    COMPREPLY=()
    response=$(env COMP_LINE="${COMP_LINE:0:COMP_POINT}" COMP_WORDBREAKS="$COMP_WORDBREAKS" \\
        %(complete_var)s=bash_complete "${1/#\\~/$HOME}" 2>/dev/null)
    while IFS=',' read -r type value; do
        case $type in
            file) compopt -o default ;;
            dir) compopt -o dirnames ;;
            plain)
                COMPREPLY+=("$value")
                [[ $value == *: ]] && compopt -o nospace ;;
        esac
    done <<< "$response"
    return 0
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""

    def get_completion_args(self) -> tuple[list[str], str]:
        """The words before the cursor, and the one that is being typed."""
        line = os.environ.get("COMP_LINE")
        if line is None:  # a shell that still has the script of an older version
            return super().get_completion_args()
        words = split_arg_string(line)
        incomplete = words.pop() if len(words) > 1 and not line[-1:].isspace() else ""
        self._typed = incomplete
        return words[1:], incomplete

    def format_completion(self, item: CompletionItem[str]) -> str:
        """What takes the place of what bash holds for the word."""
        breaks = [c for c in ":=" if c in os.environ.get("COMP_WORDBREAKS", ":=")]
        typed = getattr(self, "_typed", "")
        start = max((typed.rfind(each) + 1 for each in breaks), default=0)
        has_prefix = item.value.casefold().startswith(typed[:start].casefold())
        return f"{item.type},{item.value[start:] if has_prefix else item.value}"


class Zsh(_Silent, ZshComplete):
    """zsh, which shows the help texts; after a value that ends with a colon it puts no blank."""

    source_template = """\
#compdef %(prog_name)s
%(complete_func)s() {
    local -a plain described open response
    local type key descr program=${(Q)words[1]}
    response=("${(@f)$(env COMP_WORDS="${words[*]}" COMP_CWORD=$((CURRENT-1)) \\
        %(complete_var)s=zsh_complete ${program/#\\~/$HOME} 2>/dev/null)}")
    for type key descr in ${response}; do
        case $type in
            file) _path_files -f ;;
            dir) _path_files -/ ;;
            plain)
                if [[ $descr != _ ]]; then described+=("$key:$descr")
                elif [[ $key == *: ]]; then open+=("$key")
                else plain+=("$key"); fi ;;
        esac
    done
    (( $#described )) && _describe -V unsorted described
    (( $#plain )) && compadd -V unsorted -a plain
    (( $#open )) && compadd -V unsorted -S '' -a open
    return 0
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    %(complete_func)s "$@"
else
    compdef %(complete_func)s %(prog_name)s
fi
"""

    def format_completion(self, item: CompletionItem[str]) -> str:
        """Three lines; ``_describe`` takes the first colon without a backslash for the help's."""
        value = item.value.replace(":", r"\:") if item.help else item.value
        return f"{item.type}\n{value}\n{item.help or '_'}"


class Fish(_Silent, FishComplete):
    """fish, which shows the help texts."""

    source_template = """\
function %(complete_func)s
    set -l words (commandline -opc)
    set -l program (string replace -r '^~/' "$HOME/" -- $words[1])
    env %(complete_var)s=fish_complete COMP_WORDS=(commandline -cp) \\
        COMP_CWORD=(commandline -t) $program 2>/dev/null | while read -l -d , type value
        switch $type
            case file
                __fish_complete_path $value
            case dir
                __fish_complete_directories $value
            case plain
                echo $value
        end
    end
end
complete --no-files --command %(prog_name)s --arguments "(%(complete_func)s)"
"""

    def format_completion(self, item: CompletionItem[str]) -> str:
        """One line, the help after a tab."""
        return f"{item.type},{item.value}" + (f"\t{item.help}" if item.help else "")


for _kind in (Bash, Zsh, Fish):
    add_completion_class(_kind)
