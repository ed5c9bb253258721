"""Methods that end, flood or break what they can reach: each fails, in a sentence, and no other does."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import subprocess
import time
from typing import Any

import torch
from torch import nn

from methods.BaseMethod import Loader
from methods.MyMethod import MyMethod

ANSWER = 3
"""The descriptor that a run answers to: it is easily found."""


def answer(facts: dict[str, Any] | bytes, tensors: list[Any], content: bytes = b"") -> None:
    """Answer in place of the code that would do so after `run`, as that does, and end."""
    head = facts if isinstance(facts, bytes) else json.dumps({"facts": facts, "tensors": tensors}).encode()
    body = len(head).to_bytes(8, "big") + head + content
    os.write(ANSWER, len(body).to_bytes(8, "big") + body)
    os._exit(0)


class Failures(MyMethod):
    """Break something."""

    which: str = "honest"
    """Which trick."""

    def run(self, net: nn.Module, retain_loader: Loader, forget_loader: Loader, val_loader: Loader) -> None:
        """See `BaseMethod.run`."""
        self.net = net
        super().run(net, retain_loader, forget_loader, val_loader)
        getattr(self, self.which)()

    def honest(self) -> None:
        """Nothing beside the baseline."""

    def ends(self) -> None:
        """A pool of workers that waits for an answer waits for ever: exit code 0 is nobody's death."""
        os._exit(0)

    def becomes_another(self) -> None:
        """The same process, another program: the answer never comes."""
        os.execv("/bin/sleep", ["sleep", "600"])

    def prints_without_end(self) -> None:
        """600 MB of log."""
        for _ in range(600):
            os.write(1, bytes(1 << 20))

    def makes_a_large_log_at_once(self) -> None:
        """Without writing it, and just before the end."""
        os.ftruncate(1, 600 << 20)

    def leaves_many_processes(self) -> None:
        """68 that sleep."""
        for _ in range(68):
            if os.fork() == 0:
                time.sleep(600)
        time.sleep(60)

    def starts_many_threads(self) -> None:
        """5,000: beyond what a machine has, others can't start any."""
        code = "import threading, time\nfor _ in range(5000): threading.Thread(target=time.sleep, args=(60,)).start()"
        subprocess.run(["python3", "-S", "-c", code], check=False)

    def takes_memory(self) -> None:
        """0.75 GB, of which the tests allow two thirds."""
        kept = [bytearray(1 << 26) for _ in range(12)]
        time.sleep(60)
        del kept

    def takes_memory_in_children(self) -> None:
        """The same, in children of which none has much."""
        for _ in range(6):
            if os.fork() == 0:
                kept = bytearray(1 << 27)
                time.sleep(60)
                del kept
        time.sleep(60)

    def floods_the_pipe(self) -> None:
        """Whoever reads what there is reads for ever."""
        block = bytes(1 << 20)
        while True:
            os.write(ANSWER, block)

    def announces_much(self) -> None:
        """Whoever makes room for what is announced runs out of memory."""
        os.write(ANSWER, (1 << 62).to_bytes(8, "big"))
        time.sleep(60)

    def announces_and_dies(self) -> None:
        """Whoever waits for all that was announced waits for ever."""
        os.write(ANSWER, (1 << 20).to_bytes(8, "big") + b"x")
        os._exit(0)

    def announces_without_sending(self) -> None:
        """The same, alive."""
        os.write(ANSWER, (1 << 20).to_bytes(8, "big") + b"x")
        time.sleep(600)

    def answers_nonsense(self) -> None:
        """Not JSON."""
        answer(b"\xff\xfe{", [])

    def answers_deeply(self) -> None:
        """JSON that is too deep to be read by recursion."""
        answer(b"[" * 100_000, [])

    def answers_a_list(self) -> None:
        """JSON of another shape."""
        answer(b"[1, 2]", [])

    def answers_odd_shapes(self) -> None:
        """A tensor without numbers, and with a size beyond 64 bits."""
        answer({}, [["weights/0.weight", "float32", [0, 10**30]]])

    def answers_negative_shapes(self) -> None:
        """A size below nothing, and one that is none."""
        answer({}, [["weights/0.weight", "float32", [-1]], ["weights/0.bias", "float32", [True]]])

    def answers_many_tensors(self) -> None:
        """200,000 of them, without a number."""
        answer({}, [["x", "float32", [0]]] * 200_000)

    def answers_pickles(self) -> None:
        """A type of numbers that is none: of those that would be unpickled."""
        answer({}, [["weights/0.weight", "object", [1]]], b"cos\nsystem\n(S'true'\ntR.")

    def answers_too_little(self) -> None:
        """Fewer bytes than described."""
        answer({}, [["weights/0.weight", "float32", [1000]]], b"x")

    def answers_without_weights(self) -> None:
        """Nothing at all."""
        answer({"notes": None}, [])

    def complains_in_markup(self) -> None:
        """What is printed may be read as markup, or as commands to the terminal, or be several lines."""
        raise RuntimeError("[/red] [bold]\x1b[2J\r\nerror: my_method failed\x07 \udcff" + "x" * 10_000)

    def complains_of_nothing(self) -> None:
        """A complaint that is no text."""
        answer({"complaint": {"a": ["b"]}}, [])

    def leaves_other_names(self) -> None:
        """Weights of another network."""
        self._leave({"weights/other.weight": torch.zeros(1)})

    def leaves_odd_names(self) -> None:
        """Names that do something to the terminal which they are shown on."""
        self._leave({"weights/\x1b[2J[/red]": torch.zeros(1)})

    def leaves_long_names(self) -> None:
        """The same, by their length."""
        self._leave({f"weights/{'x' * 1_000_000}": torch.zeros(1)})

    def leaves_complex_weights(self) -> None:
        """Numbers that are none of a network."""
        self.net[0].weight = nn.Parameter(self.net[0].weight.to(torch.complex64))

    def leaves_huge_weights(self) -> None:
        """Finite as they come, infinite as weights."""
        self._leave_weight("1.running_var", lambda value: value.double() + 1e300)

    def leaves_weights_of_one(self) -> None:
        """A single number, that would be broadcast."""
        self._leave_weight("0.weight", lambda value: value.flatten()[:1])

    def leaves_nan_logits(self) -> None:
        """All weights are finite, and no output is."""
        with torch.no_grad():
            for weight in self.net.parameters():
                weight.fill_(3e38)

    def _leave_weight(self, name: str, change: Any) -> None:
        weights = {f"weights/{key}": value for key, value in self.net.state_dict().items()}
        weights[f"weights/{name}"] = change(weights[f"weights/{name}"]).contiguous()
        self._leave(weights)

    def _leave(self, tensors: dict[str, torch.Tensor]) -> None:
        described = [[key, str(value.dtype)[6:], list(value.shape)] for key, value in tensors.items()]
        answer({"notes": None}, described, b"".join(value.numpy().tobytes() for value in tensors.values()))

    def notes_no_json(self) -> None:
        """Notes that can't be written."""
        self.notes = {"net": self.net}

    def notes_nested(self) -> None:
        """Notes too deep to be read."""
        self._note("[" * 200_000)

    def notes_large(self) -> None:
        """30 MB of notes for each run."""
        self.notes = "x" * (30 << 20)

    def notes_no_text(self) -> None:
        """Notes that are a number where a text should be."""
        self._note(7)

    def _note(self, notes: Any) -> None:
        weights = self.net.state_dict()
        described = [[f"weights/{key}", str(value.dtype)[6:], list(value.shape)] for key, value in weights.items()]
        answer({"notes": notes}, described, b"".join(value.numpy().tobytes() for value in weights.values()))

    def kills_the_room(self) -> None:
        """The process that watches it."""
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)

    def stops_the_room(self) -> None:
        """The same, which then can't even be heard to end."""
        os.kill(os.getppid(), signal.SIGSTOP)
        time.sleep(60)

    def starves_the_room(self) -> None:
        """Limits of the process that watches it: no more descriptors, memory or processes."""
        for kind in (resource.RLIMIT_NOFILE, resource.RLIMIT_DATA, resource.RLIMIT_NPROC):
            _, hard = resource.prlimit(os.getppid(), kind)
            resource.prlimit(os.getppid(), kind, (0, hard))
        os._exit(1)

    def closes_everything(self) -> None:
        """Streams, and the descriptor that it should answer to."""
        os.closerange(0, 64)

    def raises_what_nobody_catches(self) -> None:
        """An exception that can't even be shown."""

        class OddError(BaseException):
            def __str__(self) -> str:
                raise ValueError

        raise OddError

    def crashes(self) -> None:
        """A segmentation fault."""
        with contextlib.suppress(Exception):
            ctypes.string_at(0)
