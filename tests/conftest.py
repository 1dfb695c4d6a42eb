"""Fixtures of all tests: logged failures fail a test, and missing programs skip it."""

from __future__ import annotations

import gc
import os
import secrets
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.python.failure import Failure
from zope.interface import provider

from benchmarks.servers import BenchmarkError, compile_load
from monconn.relay.sockets.loop import HAS_EPOLL
from tests.namespaces import Network, two_machines
from tests.properties import LONG_FACTOR, ORDINARY_EXAMPLES

_PLACES_OF_PROGRAMS = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])

# Here, as Hypothesis looks for it before any test is imported.
settings.register_profile("long", max_examples=LONG_FACTOR * ORDINARY_EXAMPLES, deadline=None)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Run the tests on the reactor that the ``monconn`` command runs on.

    pytest-twisted takes a reactor that is there already if it is of the type it would have
    installed, which ours is: so be first, unless another one was asked for (``--reactor``).
    """
    if HAS_EPOLL and config.getoption("reactor") == "default":
        from monconn.relay.sockets.reactor import install  # its module needs a system with epoll

        install()
    # Before Hypothesis' own hook, which reads it: so this run's seed is shown and can be repeated.
    if config.getoption("hypothesis_seed", None) is None:
        config.option.hypothesis_seed = str(secrets.randbelow(1 << 32))
    # A shell script's background job (`make test &`) ignores SIGINT, and the programs that the
    # tests start and interrupt would inherit that; a handler is reset to the default by exec.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header(config: pytest.Config) -> str:
    """The seed of the property tests and of the fuzzing."""
    return f"repeat with --hypothesis-seed={config.getoption('hypothesis_seed')}"


@pytest.fixture(autouse=True, scope="session")
def own_runtime_folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Where control sockets are, and captures: not among those of the user who runs the tests."""
    os.environ["XDG_RUNTIME_DIR"] = str(tmp_path_factory.mktemp("run"))
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))


def pytest_collection_finish() -> None:
    """Spare the collector what is imported by now: it runs after every test."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def network() -> Iterator[Network]:
    """Two machines; skips the test where network namespaces are not permitted."""
    with two_machines() as made:
        yield made


@pytest.fixture
def logged_failures() -> Iterator[list[Failure]]:
    """The failures that were logged; a test that expects some checks them and clears the list.

    Deferreds with unhandled errors are among them once they are freed.
    """
    failures: list[Failure] = []

    @provider(ILogObserver)
    def observer(event: LogEvent) -> None:
        # The second is how Twisted's older parts log: twisted.python.log.err.
        failure = event.get("log_failure") or event.get("failure")
        if failure is not None:
            failures.append(failure)

    globalLogPublisher.addObserver(observer)
    yield failures
    globalLogPublisher.removeObserver(observer)


@pytest.fixture(autouse=True)
def no_unexpected_failures(logged_failures: list[Failure]) -> Iterator[None]:
    """Fail a test that leaves an unhandled error in a Deferred, or has logged a failure."""
    yield
    gc.collect()  # a Deferred logs its error when it is freed, and may be part of a cycle
    # What is left is older than the next test. Reports and caches grow by some 30 objects with each
    # test; to look at all of them after each took two thirds of the processor's time.
    gc.freeze()
    if logged_failures:
        tracebacks = "\n".join(failure.getTraceback() for failure in logged_failures)
        pytest.fail(f"unhandled failures:\n{tracebacks}", pytrace=False)


@pytest.fixture(scope="session")
def load_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The load generator; skips the test without a C compiler, where CI runs it fails."""
    try:
        return compile_load(tmp_path_factory.mktemp("load"))
    except BenchmarkError as error:
        if "no C compiler" in str(error) and not os.environ.get("MONCONN_REQUIRE_PROGRAMS"):
            pytest.skip(str(error))
        raise


@pytest.fixture(scope="session")
def program() -> Callable[[str], str]:
    """Finds a program that a test talks to, or skips the test; where CI runs, fails it."""

    def find(name: str) -> str:
        path = shutil.which(name, path=_PLACES_OF_PROGRAMS)
        if path is not None:
            return path
        missing = f"the program {name} is not installed"
        if os.environ.get("MONCONN_REQUIRE_PROGRAMS"):
            pytest.fail(missing)
        pytest.skip(missing)

    return find
