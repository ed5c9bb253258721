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
from data.files import chosen_folders, generated_folder

ROOT = Path(__file__).parents[2]
CODE = ("data", "checkpoints", "evaluation", "methods")
"""Packages of the kit that a room imports; of their folders only those with code are there."""
IN_EVERY_METHOD = ("__init__.py", "registry.py", "BaseMethod.py")
"""Files of methods/ that belong to no method."""
SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/sbin", "/etc/ld.so.cache", "/etc/alternatives", "/etc/localtime")
"""What Python and PyTorch need of the system, where it exists."""
LARGEST = 1 << 30
"""Bytes that the files in /tmp, or in shared memory, may have together."""
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


def sandboxed(device: str, files: Sequence[Path], all_methods: bool = True) -> list[str]:
    """The command that runs what follows it in a sandbox, in which `files` can be read at the places where they are.

    Without `all_methods`, they are the only files of methods there: those of rivals can't be read.
    There is the system, Python, installed packages, the code of the kit, and an empty /tmp, in memory.
    """
    command = ["bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL", "--clearenv"]
    for name, value in os.environ.items():
        if name in ENVIRONMENT or name.startswith(PREFIXES):
            command += ["--setenv", name, value]
    command += ["--proc", "/proc", "--dev", "/dev", "--mqueue", "/dev/mqueue"]
    for own in ("/dev/shm", "/tmp"):
        command += ["--size", str(LARGEST), "--tmpfs", own]
    command += ["--setenv", "HOME", "/tmp", "--setenv", "TMPDIR", "/tmp"]
    if device != "cpu":
        for gpu in (*Path("/dev").glob("nvidia*"), Path("/dev/dri"), Path("/dev/kfd"), Path("/sys")):
            command += ["--dev-bind-try", str(gpu), str(gpu)]
    readable = _readable()
    outside = [place for place in readable if not _is_inside(place, ROOT)]
    for place in outside:
        if place.is_symlink() and not place.parent.is_symlink() and place.parent == Path("/"):
            command += ["--symlink", os.readlink(place), str(place)]
        else:
            command += ["--ro-bind", str(place), str(place)]
    for hidden in (ROOT, *(generated_folder(name) for name in chosen_folders())):
        if hidden.exists() and any(_is_inside(hidden, place) for place in outside):
            command += ["--tmpfs", str(hidden.resolve())]
    for place in readable:
        if place not in outside:
            command += ["--ro-bind", str(place), str(place)]
    for package in CODE:
        for folder in _folders_with_code(ROOT / package):
            for file in sorted(folder.glob("*.py")):
                if all_methods or package != "methods" or file.name in IN_EVERY_METHOD:
                    command += ["--ro-bind", str(file), str(file)]
    for file in files:
        command += ["--ro-bind", str(file), str(file)]
    # What bwrap has made for itself to mount the rest on could be written otherwise: a module beside the kit's, say.
    return [*command, "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", str(ROOT)]


def _readable() -> list[Path]:
    """Folders and files of the system, of Python and of installed packages, as they are here."""
    places = [*SYSTEM, sys.base_prefix, sys.prefix, sys.exec_prefix]
    installed = [place for place in sys.path if place and Path(place).is_dir()]
    kit = [place for place in installed if Path(place).resolve() == ROOT]
    return [Path(place) for place in dict.fromkeys([*places, *installed]) if Path(place).exists() and place not in kit]


def _is_inside(place: Path, folder: Path) -> bool:
    return place.resolve().is_relative_to(folder.resolve())


def _folders_with_code(folder: Path) -> list[Path]:
    """The folder and those below it that are packages."""
    below = [inner for inner in sorted(folder.iterdir()) if (inner / "__init__.py").is_file()]
    return [folder, *(place for inner in below for place in _folders_with_code(inner))]


def shows(folder: Path) -> bool:
    """Whether a folder lies in one that can be read in the sandbox."""
    hidden = [ROOT, *(generated_folder(name) for name in chosen_folders())]
    around = [place for place in _readable() if _is_inside(folder, place)]
    # Of two, one in the other, the inner one counts: Python's packages are often in the folder of the kit.
    covered = [place for place in hidden if _is_inside(folder, place)]
    deepest = max((len(place.resolve().parts) for place in around), default=-1)
    return deepest >= max((len(place.resolve().parts) for place in covered), default=0)
