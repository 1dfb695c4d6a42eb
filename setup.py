"""How monconn is built and installed; `make` does it for you."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent


def version() -> str:
    """Read the version without importing the package, whose dependencies may be missing."""
    text = (HERE / "monconn" / "_version.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)
    if found is None:
        raise RuntimeError("monconn/_version.py does not set __version__")
    return found[1]


# The public address of the repository. There is none yet: then a package index is told no address,
# and of the README's links and pictures only what leads somewhere from there.
REPOSITORY_URL = ""
PROJECT_URLS = {
    "Source": REPOSITORY_URL,
    "Documentation": f"{REPOSITORY_URL}/tree/main/docs",
    "Changelog": f"{REPOSITORY_URL}/blob/main/CHANGELOG.md",
}


def readme() -> str:
    """The README as a package index can show it."""
    path = HERE / "README.md"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    if REPOSITORY_URL:
        return re.sub(r"\]\((?!\w+:)", f"]({REPOSITORY_URL}/blob/main/", text)
    text = re.sub(r"^!\[[^\]]*\]\([^)]*\)\n+", "", text, flags=re.MULTILINE)
    return re.sub(r"\[([^\[\]]+)\]\((?!\w+:)[^)\s]+\)", r"\1", text)


# .ci/lowest.txt pins each of these lower bounds, and `make test-lowest` runs the tests with them.
# They are the oldest releases that have wheels for every Python that we support.
MANHOLE = ["Twisted[conch]>=24.11.0"]
TUI = ["textual>=8.2.8", "rich>=14.2.0"]
# h11 parses and writes HTTP/1.1 for both, and leaves sockets, time and bounds to us: twisted.web
# serves all pipelined requests in one turn, and grants each byte of one its whole timeout anew.
# Releases before 0.16 do not check the end of a chunk (CVE-2025-43859).
HTTP = ["h11>=0.16.0"]
METRICS = ["prometheus-client>=0.20.0", *HTTP]
NOTIFY = ["apprise>=1.9.0", "paho-mqtt>=2.1.0"]  # the second is what Apprise speaks MQTT with
TEST = [
    *MANHOLE,
    *METRICS,
    *HTTP,
    *NOTIFY,
    "pytest>=8.2.0",
    "pytest-twisted>=1.14.3",
    "hypothesis>=6.100.0",
    "openapi-spec-validator>=0.7.1",
    "setuptools>=70.1.0",  # tests/test_packaging.py builds a wheel
]
# Apart from TEST: Playwright brings a Node.js of its own, 140 MB, and what a browser shows does not
# depend on which Python drives it. `make test` installs it, `make test-lowest` does not. It is
# pinned to a release line, as it speaks with Debian's chromium by a protocol that changes.
BROWSER = ["playwright~=1.65.0", "axe-playwright-python~=0.1.8"]

setup(
    name="monconn",
    version=version(),
    description="Watch TCP connections: a forwarder, and a monitor around any Twisted factory",
    long_description=readme(),
    long_description_content_type="text/markdown",
    author="The monconn developers",
    url=REPOSITORY_URL or None,
    project_urls=PROJECT_URLS if REPOSITORY_URL else {},
    license="MIT",
    license_files=["LICENSE"],
    keywords=["tcp", "proxy", "forwarder", "monitor", "monitoring", "twisted", "observability"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Environment :: No Input/Output (Daemon)",
        "Framework :: Twisted",
        "Intended Audience :: Developers",
        "Intended Audience :: System Administrators",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Internet :: Proxy Servers",
        "Topic :: System :: Networking :: Monitoring",
        "Typing :: Typed",
    ],
    python_requires=">=3.10",
    # twisted.plugins is a folder without __init__.py: it adds a file to Twisted's own package.
    packages=[*find_packages(include=["monconn", "monconn.*"]), "twisted.plugins"],
    py_modules=["monconn_command"],
    # Makes an editable install write a .pth file; setuptools' import hook would hide the plugin.
    package_dir={"": "."},
    # monconn/docs is a symbolic link to docs, for `monconn help`.
    package_data={"monconn": ["py.typed", "docs/*.md", "faces/http/page/**/*"]},
    # Below the environment, where man finds them beside a bin/ that is on the path.
    data_files=[
        ("share/man/man1", ["man/monconn.1"]),
        ("share/man/man5", ["man/monconn.yaml.5"]),
    ],
    install_requires=[
        "Twisted[tls]>=24.11.0",
        "zope.interface>=7.1.0",
        "attrs>=23.2.0",
        "cattrs>=24.1.0",
        "PyYAML>=6.0.2",
        "click>=8.2.1",
        # Encodes the JSON log: in a tenth of the time of the standard library's json, which would
        # cost each connection more than all else that the log does. msgspec takes longer, and
        # 1 MB of memory where this takes 0.2.
        "orjson>=3.10.7",
    ],
    extras_require={
        "manhole": MANHOLE,
        "tui": TUI,
        "metrics": METRICS,
        "http": HTTP,
        "notify": NOTIFY,
        "all": [*MANHOLE, *TUI, *METRICS, *HTTP, *NOTIFY],
        "test": TEST,
        "browser": BROWSER,
        # Linters are pinned to a release line: a new rule is no reason for a red build.
        "dev": [
            *TEST,
            *BROWSER,
            "build>=1.2",
            "twine~=7.0.0",
            "mypy~=2.4.0",
            "mypy-zope~=1.0.17",
            "ruff~=0.17.6",
            "types-PyYAML",
        ],
        # Reads /openapi.json and attacks the API: make api-test.
        "api-test": ["schemathesis~=4.32.5"],
        "docs": ["sphinx~=9.0.4", "myst-parser~=5.2.0", "furo~=2025.12.19"],
    },
    entry_points={"console_scripts": ["monconn = monconn_command:main"]},
)
