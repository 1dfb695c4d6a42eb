"""Where a start has its services from, and what is wrong with that, in words that are the same
under each launcher. Nothing here imports Twisted: ``monconn --help`` needs none of it."""

from __future__ import annotations

from monconn.config.config import ConfigFile, load_file

_EXAMPLE_PAIR = ":2222=127.0.0.1:22"


def fault(
    file: str | None, pairs: object, record: bool, command: str, http: str | None = None
) -> str | None:
    """What is wrong with the options ``-c FILE`` and ``-p LISTEN=BACKEND``, one of which is needed.

    :param pairs: those of ``-p``; empty for none.
    :param record: whether ``--record`` is given, which is for pairs.
    :param http: what ``--http`` says, which is for pairs, too.
    :param command: how the program is called, for the example.
    """
    if pairs and file is not None:
        return "-c and -p do not go together: put the services into the file"
    if record and file is not None:
        return "--record is for -p: write recorder: true into the file, at a service or in defaults"
    if http is not None and file is not None:
        return f"--http is for -p: write http: {{listen: {http}}} into the file"
    if not pairs and file is None:
        return f"nothing to do: give -p or -c, as in {command} -p {_EXAMPLE_PAIR}"
    return None


def load(file: str) -> ConfigFile:
    """A configuration file, with its observers, outputs and captures checked.

    :raises ConfigError: with all problems.
    """
    loaded = load_file(file)
    if loaded.config.observers:
        from monconn.run.observers import check_observers

        check_observers(loaded.config, file)
    if loaded.config.notify:
        from monconn.run.notify import check_notify

        check_notify(loaded.config, file)
    capture = loaded.config.capture
    if capture is not None and (capture.filter or capture.on):
        from monconn.run.captures import check_captures

        check_captures(loaded.config, file)
    return loaded
