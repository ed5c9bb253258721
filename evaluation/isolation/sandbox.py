"""A sandbox for strangers' code: a room in which there is a read-only system, and no network, bank, results or home.

It is bubblewrap's (https://github.com/containers/bubblewrap), which makes it from namespaces of Linux; 0.8.0 or later,
as Debian 12 and Ubuntu 24.04 have it. Within, runs are forked as they are without it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from data.errors import UserError

ROOT = Path(__file__).parents[2]
CODE = ("data", "checkpoints", "evaluation", "methods")
"""Packages of the kit that a room imports; of their folders only those with code are there."""
SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/sbin", "/etc/ld.so.cache", "/etc/alternatives", "/etc/localtime")
"""What Python and PyTorch need of the system, where it exists."""
ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "PYTHONHASHSEED", "GLIBC_TUNABLES", "PYTHONMALLOC", "OMP_NUM_THREADS")
"""Environment variables that are passed on, and those whose names begin as in `PREFIXES`."""
PREFIXES = ("ATEN_", "ONEDNN_", "MKL_", "OPENBLAS_")
INSTALL = "install bubblewrap (Debian, Ubuntu: apt install bubblewrap; Fedora: dnf install bubblewrap)"


_in_use = False


def use_sandbox() -> None:
    """From now on, this process and its workers have code of methods executed in sandboxes alone.

    Raises:
        UserError: there is no sandbox here.
    """
    global _in_use
    check_sandbox()
    _in_use = True


def in_use() -> bool:
    """Whether code of methods is executed in sandboxes."""
    return _in_use


@cache
def check_sandbox() -> None:
    """Raises `UserError` if there is no sandbox here; the message says why, and what to do."""
    if sys.platform != "linux":
        raise UserError("There is a sandbox on Linux only: use a container, or a virtual machine, there is none here.")
    if shutil.which("bwrap") is None:
        raise UserError(f"--sandbox needs a program that is not here: {INSTALL}.")
    program = [*sandboxed("cpu", []), sys.executable, "-c", ""]
    tried = subprocess.run(program, capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        said = tried.stderr.strip().splitlines()[-1:] or ["no reason given"]
        raise UserError(
            f"bubblewrap is here, but can't make a sandbox ({said[0]}): user namespaces may be forbidden on this "
            "machine, as they are in many containers; ask its administrator."
        )


def sandboxed(device: str, files: Sequence[Path]) -> list[str]:
    """The command that runs what follows it in a sandbox, in which `files` can be read at the places where they are.

    There is the system, Python, installed packages, the code of the kit, and an empty /tmp, in memory.
    """
    readable = [Path(place) for place in SYSTEM]
    readable += [Path(prefix) for prefix in (sys.base_prefix, sys.prefix, sys.exec_prefix)]
    readable += [Path(place) for place in sys.path if place and Path(place).is_dir() and not _of_the_kit(Path(place))]
    command = ["bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL", "--clearenv"]
    for name, value in os.environ.items():
        if name in ENVIRONMENT or name.startswith(PREFIXES):
            command += ["--setenv", name, value]
    command += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]
    command += ["--setenv", "HOME", "/tmp", "--setenv", "TMPDIR", "/tmp"]
    if device != "cpu":
        for gpu in (*Path("/dev").glob("nvidia*"), Path("/dev/dri"), Path("/dev/kfd"), Path("/sys")):
            command += ["--dev-bind-try", str(gpu), str(gpu)]
    for place in dict.fromkeys(readable):
        if place.is_symlink() and not place.parent.is_symlink() and place.parent == Path("/"):
            command += ["--symlink", os.readlink(place), str(place)]
        elif place.exists():
            command += ["--ro-bind", str(place), str(place)]
    for package in CODE:
        for folder in _folders_with_code(ROOT / package):
            for file in sorted(folder.glob("*.py")):
                command += ["--ro-bind", str(file), str(file)]
    for file in files:
        command += ["--ro-bind", str(file), str(file)]
    return [*command, "--chdir", str(ROOT)]


def _of_the_kit(place: Path) -> bool:
    return place.resolve() == ROOT or ROOT in place.resolve().parents


def _folders_with_code(folder: Path) -> list[Path]:
    """The folder and those below it that are packages."""
    below = [inner for inner in sorted(folder.iterdir()) if (inner / "__init__.py").is_file()]
    return [folder, *(place for inner in below for place in _folders_with_code(inner))]
