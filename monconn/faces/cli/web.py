"""``monconn web``: opens the page in a browser; tokens for programs."""

from __future__ import annotations

import html
import os
import sys
import webbrowser

import click

from monconn.errors import ControlError, os_error_text, printable
from monconn.faces.cli import completion
from monconn.faces.cli.output import print_json, print_line, print_note, print_rows
from monconn.faces.cli.verbs import asks_server, json_option
from monconn.faces.control.client import BadAnswer, Client
from monconn.faces.control.place import control_folder, make_folder
from monconn.ops.rows import TokenRow
from monconn.roles import ROLES

_REDIRECT = "open-page.html"


@click.command(short_help="Open the page in a browser, logged in; tokens for programs.")
@click.option("--print", "is_printed", is_flag=True, help="Only print the link.")
@click.option(
    "--role",
    type=click.Choice(ROLES),
    help="What the link lets do: view, or operate (as the control socket does).",
)
@click.option(
    "--token",
    "token_role",
    type=click.Choice(ROLES),
    help="Instead, make a token for a program, and print it.",
)
@click.option("--as", "token_name", metavar="NAME", help="The name of the token, for the log.")
@click.option("--tokens", "is_list", is_flag=True, help="Instead, list the tokens.")
@click.option(
    "--revoke",
    "revoked",
    metavar="NAME",
    shell_complete=completion.tokens,
    help="Instead, make a token useless.",
)
@click.option("--log-out-all", is_flag=True, help="Instead, end the sessions of all browsers.")
@json_option
@asks_server
def web(
    server: Client,
    is_printed: bool,
    role: str | None,
    token_role: str | None,
    token_name: str | None,
    is_list: bool,
    revoked: str | None,
    log_out_all: bool,
    as_json: bool,
) -> None:
    """Open the page of the server in a browser, logged in by a link that can be used once.

    With --print the link is only printed: it can be opened elsewhere, within a minute. Programs use
    the HTTP API, each with a token of its own, which --token makes.
    """
    is_link = is_printed or role is not None
    others = [token_role is not None, is_list, revoked is not None, log_out_all]
    if is_link + sum(others) > 1:
        raise click.UsageError("--print or --role, --token, --tokens, --revoke, --log-out-all: one")
    if token_name is not None and token_role is None:
        raise click.UsageError("--as goes with --token: it names a new token")
    if "web" not in server.hello:
        running = printable(server.hello.get("server"))
        raise ControlError(f"{running} runs, which is too old to have a page: restart it")
    if token_role is not None:
        _make_token(server, token_role, token_name, as_json)
    elif is_list:
        _list_tokens(server, as_json)
    elif revoked is not None:
        server.call("RevokeToken", name=revoked)
        if as_json:
            print_json({"revoked": revoked})
        else:
            print_line(f"{revoked} is revoked: it, and browsers that used it, are let in no more")
    elif log_out_all:
        server.call("LogOutAll")
        if as_json:
            print_json({"logged_out": True})
        else:
            print_line("all browsers are logged out; tokens are still good")
    else:
        _open_page(server, role, is_printed, as_json)


def _make_token(server: Client, role: str, name: str | None, as_json: bool) -> None:
    made = server.call("MakeToken", role=role, name=name)
    if as_json:
        print_json({key: made.get(key) for key in ("name", "role", "token", "file")})
        return
    print_line(made.get("token", ""))
    print_note(
        f"this token, {printable(made.get('name'))}, is shown only now: send it as"
        " Authorization: Bearer TOKEN"
    )


def _list_tokens(server: Client, as_json: bool) -> None:
    answer = server.call("ListTokens")
    rows = list(server.rows_of(answer))
    print_rows(TokenRow, rows, as_json)
    if not as_json:
        print_note(f"listed in {printable(answer.get('file'))}")


def _open_page(server: Client, role: str | None, is_printed: bool, as_json: bool) -> None:
    answer = server.call("WebLink", role=role)
    url = answer.get("url", "")
    # It goes to a browser, and to a terminal.
    if not url.startswith(("http://", "https://")) or not url.isascii() or not url.isprintable():
        raise BadAnswer(f"{server.where} sends no link")
    if as_json:
        print_json({"url": url, "seconds": float(answer.get("seconds", 0))})
        return
    if is_printed:
        print_line(url)
        print_note(f"good for {_seconds(answer)}, and once")
        return
    if not _has_display():
        print_line(url)
        print_note(f"there is no display here: open this link elsewhere within {_seconds(answer)}")
        _explain_forwarding(url)
        return
    if webbrowser.open(_redirect(url)):
        print_note(f"opening the page; should no browser show it: {url}")
    else:
        print_line(url)
        print_note(f"no browser was found: open this link within {_seconds(answer)}, it works once")


def _seconds(answer: dict[str, str]) -> str:
    return f"{float(answer.get('seconds', 0)):.0f} s"


def _has_display() -> bool:
    """Whether a browser could show anything: else one for terminals would be started here."""
    if sys.platform in ("darwin", "win32") or os.environ.get("BROWSER"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _explain_forwarding(url: str) -> None:
    if "SSH_CONNECTION" in os.environ:
        place = url.partition("//")[2].partition("/")[0]
        port = place.rpartition(":")[2]
        print_note(f"over ssh, forward the port first: ssh -L {port}:{place} THIS_HOST")


def _redirect(url: str) -> str:
    """A file that leads a browser to the link, and its URL.

    The arguments of a process can be read by all users of a machine: who was fast could use the
    link before the browser does.
    """
    folder = control_folder()
    make_folder(folder)
    path = folder / _REDIRECT
    try:
        path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "w", encoding="ascii") as file:
            place = html.escape(url)
            file.write(
                f'<!doctype html><meta http-equiv="refresh" content="0;url={place}">'
                f'<title>monconn</title><a href="{place}">monconn</a>\n'
            )
    except OSError as error:
        raise ControlError(f"{path}: {os_error_text(error)}") from None
    return path.as_uri()
