"""Methods whose second run knows of the first: it could go on where that one ended, and so take longer than allowed."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import resource
import signal
import socket
import time
from pathlib import Path

import torch
from torch import nn

from methods.BaseMethod import Loader
from methods.MyMethod import MyMethod

SEEN: list[int] = []


class States(MyMethod):
    """Leave something somewhere, and start from new weights if something is there; else it is the baseline."""

    which: str = "honest"
    """Which trick."""
    kit: str = ""
    """Where the kit is."""

    def run(self, net: nn.Module, retain_loader: Loader, forget_loader: Loader, val_loader: Loader) -> None:
        """See `BaseMethod.run`."""
        self.net, self.loaders = net, (retain_loader, forget_loader, val_loader)
        if getattr(self, self.which)():
            for module in net.modules():
                if hasattr(module, "reset_parameters"):
                    module.reset_parameters()
        super().run(net, retain_loader, forget_loader, val_loader)
        self.afterwards()

    def afterwards(self) -> object:
        """What is done when the run's own result is there."""

    def honest(self) -> bool:
        """Nothing beside the baseline."""
        return False

    def in_globals(self) -> bool:
        """Where one process does many runs, its variables last."""
        SEEN.append(1)
        return len(SEEN) > 1

    def in_pytorch(self) -> bool:
        """The same, in a module of somebody else."""
        before = hasattr(torch.nn.functional, "seen")
        torch.nn.functional.seen = True
        return before

    def in_the_images(self) -> bool:
        """Where runs share the tensors of the data."""
        images = next(value for value in vars(self.loaders[0].dataset).values() if isinstance(value, torch.Tensor))
        before = bool((images[0] == 7).all())
        self.afterwards = lambda: images[0].fill_(7)
        return before

    def in_the_original(self) -> bool:
        """Where runs share the network that they start from: whatever tensors there are, they are changed."""
        weight = next(iter(self.net.parameters()))
        gc.unfreeze()
        twins = [thing for thing in gc.get_objects() if isinstance(thing, nn.Parameter) and thing.shape == weight.shape]
        before = any(float(twin.detach().flatten()[0]) == 77 for twin in twins)
        for twin in twins:
            if twin is not weight:
                twin.data.flatten()[0] = 77
        return before

    def in_tmp(self) -> bool:
        """The simplest: a file."""
        return _mark(Path("/tmp"))

    def in_a_closed_folder(self) -> bool:
        """One that can't simply be listed and removed."""
        folder = Path("/tmp/unlearning-closed")
        before = folder.exists()
        folder.mkdir(exist_ok=True)
        (folder / "file").touch()
        folder.chmod(0)
        return before

    def in_shared_memory(self) -> bool:
        """A file in memory."""
        return _mark(Path("/dev/shm"))

    def beside_the_code(self) -> bool:
        """A file in the kit's folder; as a module there it would even be imported by others."""
        return _mark(Path(self.kit)) or _mark(Path(self.kit) / "evaluation")

    def in_the_root(self) -> bool:
        """Folders that a sandbox makes for what it mounts are its own, and may be writable."""
        return _mark(Path("/")) or _mark(Path("/dev"))

    def in_ipc(self) -> bool:
        """Shared memory of System V lasts without a process or a file."""
        libc = ctypes.CDLL(None, use_errno=True)
        before: int = libc.shmget(0x5EC0, 1, 0)
        libc.shmget(0x5EC0, 1, 0o1600)
        return before >= 0

    def in_a_message_queue(self) -> bool:
        """The same of POSIX."""
        libc = ctypes.CDLL(None, use_errno=True)
        before: int = libc.mq_open(b"/unlearning", os.O_RDONLY)
        libc.mq_open(b"/unlearning", os.O_CREAT | os.O_RDWR, 0o600, None)
        return before >= 0

    def in_the_keyring(self) -> bool:
        """Linux keeps passwords for a user, and a few other bytes as well."""
        call = {"x86_64": (248, 250), "aarch64": (217, 219)}.get(os.uname().machine)  # add_key and keyctl
        if call is None:
            return False
        libc = ctypes.CDLL(None, use_errno=True)
        before: int = libc.syscall(call[1], 10, -4, b"user", b"unlearning", 0)
        libc.syscall(call[0], b"user", b"unlearning", b"x", ctypes.c_size_t(1), -4)
        return before >= 0

    def in_a_daemon(self) -> bool:
        """A process that stays, and answers on an abstract socket."""
        with socket.socket(socket.AF_UNIX) as client:
            try:
                client.connect(b"\0unlearning")
                return True
            except OSError:
                pass
        if os.fork() == 0:
            os.setsid()
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(b"\0unlearning")
                server.listen()
                time.sleep(600)
            os._exit(0)
        time.sleep(0.1)
        return False

    def in_limits_of_the_room(self) -> bool:
        """A process may set limits of another of the same user; a fork inherits them."""
        room, kind = os.getppid(), resource.RLIMIT_MSGQUEUE
        soft, hard = resource.prlimit(room, kind)
        resource.prlimit(room, kind, (4321, hard))
        return soft == 4321

    def in_the_priority_of_the_room(self) -> bool:
        """The same, for its niceness: which makes all runs after it slow, those of others too."""
        before = os.getpriority(os.PRIO_PROCESS, os.getppid())
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, os.getppid(), before + 3)
        os.setpriority(os.PRIO_PROCESS, 0, before + 3)
        return before > 2

    def after_the_death_of_the_room(self) -> bool:
        """A child that survives the process that watches it could go on for the next run."""
        if os.fork() == 0:
            os.setsid()
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(b"\0unlearning-later")
                server.listen()
                time.sleep(600)
            os._exit(0)
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(5)
        return False

    def listens_for_a_survivor(self) -> bool:
        """The run after it: is there somebody?"""
        with socket.socket(socket.AF_UNIX) as client:
            try:
                client.connect(b"\0unlearning-later")
            except OSError:
                return False
        return True


def _mark(folder: Path) -> bool:
    """Leave a file in a folder; whether it was there."""
    mark = folder / "unlearning_was_here"
    before = mark.exists()
    with contextlib.suppress(OSError):
        mark.touch()
    return before
