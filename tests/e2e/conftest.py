"""What the end-to-end tests share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .programs import Backend, Monconn, Program, echo


@pytest.fixture
def start() -> Iterator[Callable[..., Program]]:
    """Starts programs, as :class:`Program` does, and ends them."""
    programs: list[Program] = []

    def _start(*argv: str | Path, **kwargs: object) -> Program:
        programs.append(Program(argv, **kwargs))  # type: ignore[arg-type]
        return programs[-1]

    yield _start
    for program in reversed(programs):
        program.close()


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., Monconn]]:
    """Starts monconn, and ends it."""
    launched: list[Monconn] = []

    def _launch(how: str, *options: str | Path, **kwargs: object) -> Monconn:
        kwargs.setdefault("folder", tmp_path)
        launched.append(Monconn(how, options, **kwargs))  # type: ignore[arg-type]
        return launched[-1]

    yield _launch
    for monconn in launched:
        monconn.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., Backend]]:
    """Starts backends, as :class:`Backend` does, and closes them."""
    backends: list[Backend] = []

    def _serve(*args: object, **kwargs: object) -> Backend:
        backends.append(Backend(*args, **kwargs))  # type: ignore[arg-type]
        return backends[-1]

    yield _serve
    for backend in backends:
        backend.close()


@pytest.fixture
def echo_port(serve: Callable[..., Backend]) -> int:
    """The port of a backend that sends everything back."""
    return serve(echo).port
