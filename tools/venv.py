"""Virtual environments: one in the checkout for tests, one below /opt for the installed product."""

from __future__ import annotations

import os
import shutil
import tempfile

from tools.steps import CHECKOUT, PYTHON, content_key, is_done, mark_done, run, say

PYPROJECT = os.path.join(CHECKOUT, "pyproject.toml")
SOURCES = os.path.join(CHECKOUT, "src")
PIP = ["-m", "pip", "--disable-pip-version-check", "-q", "install"]


def ensure_development(folder: str) -> None:
    """Make the environment for tests: the checkout itself and the tools of pyproject.toml."""
    key = content_key([PYPROJECT], "development")
    if is_done(os.path.join(folder, "stamp"), key):
        return
    say(f"making the virtual environment {os.path.relpath(folder, CHECKOUT)}")
    run([PYTHON, "-m", "venv", folder])
    run([f"{folder}/bin/python", *PIP, "-e", f"{CHECKOUT}[dev]"])
    mark_done(os.path.join(folder, "stamp"), key)


def ensure_product(folder: str) -> None:
    """Make the environment of the installed product, with its own copy of the code."""
    key = content_key([PYPROJECT, os.path.join(SOURCES, "kata")], "product")
    if is_done(os.path.join(folder, "stamp"), key):
        return
    say(f"installing the product to {folder}")
    run([PYTHON, "-m", "venv", folder])
    # pip builds inside the folder that it is given; the checkout stays clean.
    with tempfile.TemporaryDirectory() as copy:
        shutil.copy(PYPROJECT, copy)
        shutil.copytree(
            os.path.join(SOURCES, "kata"),
            os.path.join(copy, "src", "kata"),
            ignore=shutil.ignore_patterns("__pycache__"),
        )
        run([f"{folder}/bin/python", *PIP, "--force-reinstall", "--no-deps", copy])
        run([f"{folder}/bin/python", *PIP, copy])
    run([f"{folder}/bin/python", "-m", "compileall", "-q", site_packages(folder)])
    mark_done(os.path.join(folder, "stamp"), key)


def site_packages(folder: str) -> str:
    """Return the environment's folder of modules."""
    lib = os.path.join(folder, "lib")
    (python,) = (name for name in os.listdir(lib) if name.startswith("python3."))
    return os.path.join(lib, python, "site-packages")
