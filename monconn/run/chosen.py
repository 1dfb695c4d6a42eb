"""What the program itself chooses, where a configuration says nothing of it."""

from __future__ import annotations

from monconn.config.config import ConfigFile
from monconn.faces.control.place import FIRST_NAME, control_folder
from monconn.sinks.capture_files import default_folder


def chosen_at_start(file: ConfigFile) -> dict[str, str]:
    """The values of settings that are left out, by their paths, such as ``control.listen``."""
    config = file.config
    chosen = {
        "control.listen": f"unix:{control_folder() / FIRST_NAME}",
        "capture.folder": default_folder(),
    }
    # Each imports what it needs, which the verbs do without.
    if config.state is not None:
        from monconn.run.state_file import path_of

        chosen["state"] = path_of(config.state)
    if config.http is not None:
        from monconn.access.files import tokens_path

        chosen["http.tokens"] = tokens_path(config.http, file.path)
    if config.manhole is not None:
        try:
            from monconn.faces.manhole.keys import default_host_key
        except ImportError:
            chosen["manhole.host_key"] = "in the user's state folder"
        else:
            chosen["manhole.host_key"] = str(default_host_key())
    return chosen
