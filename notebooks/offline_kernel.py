"""The kernel that a submission is executed in: IPython's, without the kit and without the internet, as on Kaggle.

It is started as a script, by its path. From its first moment on, an audit hook (`sys.addaudithook`, which nothing in
the process can take away again) refuses connections and look-ups of names beyond this machine. It sees what goes
through Python's `socket` module, not what C code or a child process does: it finds mistakes, it is no sandbox.
"""

from __future__ import annotations

import ipaddress
import sys
from pathlib import Path
from typing import Any

NETWORK_EVENTS = {"socket.connect": 1, "socket.sendto": 1, "socket.sendmsg": 1, "socket.getaddrinfo": 0}
NETWORK_EVENTS |= {"socket.gethostbyname": 0, "socket.gethostbyaddr": 0}
"""Audit events, and which of their arguments is the address."""


def refuse_network(event: str, arguments: tuple[Any, ...]) -> None:
    """The audit hook. Raises `PermissionError` for whatever would leave this machine."""
    if event in NETWORK_EVENTS:
        address = arguments[NETWORK_EVENTS[event]]
        host = address[0] if isinstance(address, tuple) and address else address
        if not _is_local(host, is_address=isinstance(address, tuple)):
            raise PermissionError(f"Kaggle's notebook has no internet; this one tried to reach {host!r}.")


def _is_local(host: object, is_address: bool) -> bool:
    if isinstance(host, bytes):
        host = host.decode(errors="replace")
    if not isinstance(host, str) or host in ("", "localhost"):
        return True
    if host.startswith("/") and not is_address:  # a Unix socket
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return False


def hide_the_kit() -> None:
    """Let no import find the kit: neither beside this file nor, as after `pip install -e .`, where it is installed.

    Packages that are installed from a folder of their own are what Kaggle lacks, so that all of them are hidden.
    """
    kit = Path(__file__).resolve().parent.parent
    others = [entry for entry in sys.path[1:] if Path(entry).resolve() != kit]
    sys.path[:] = ["", *others]  # the first was this file's folder; a notebook sees its working folder instead
    sys.meta_path[:] = [finder for finder in sys.meta_path if not _is_editable(finder)]


def _is_editable(finder: object) -> bool:
    return getattr(finder, "__module__", "").startswith("__editable__")


if __name__ == "__main__":
    sys.addaudithook(refuse_network)
    hide_the_kit()
    from ipykernel import kernelapp

    kernelapp.launch_new_instance()
