"""Methods are looked up without importing their files here; one that can't be used is named, and harms no other."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.conftest import Kit
    from tests.evaluation.catalogue.conftest import Ask

HEAD = '''"""A method of the tests."""
import os, sys, time, ctypes, threading, subprocess, signal, warnings
from pathlib import Path
from methods.BaseMethod import BaseMethod, Between
'''
CLASS = '''

class NAME(BaseMethod):
    """Multiply all weights."""

    scale: float = 1.0
    """By what."""
BODY
    def run(self, net, retain_loader, forget_loader, val_loader):
        for value in net.parameters():
            value.data.mul_(self.scale)
'''
SMALL = (
    *("--train-size", "60", "--test-size", "60", "--recipe", "epochs=1", "--models", "8", "--originals", "1"),
    *("--workers", "1", "--budget-seconds", "60"),
)


def method(name: str, top: str = "", body: str = "") -> str:
    """The text of a file with these lines at its top, and in its class."""
    return HEAD + top + CLASS.replace("NAME", name.title().replace("_", "")).replace("BODY", body)


# By name: what stands at the top of the file, and what is said of it.
BROKEN = {
    "lacks_package": ("import timm_of_nobody", r"line 5: ModuleNotFoundError: No module named 'timm_of_nobody'"),
    "bad_syntax": ("def (", r"methods/BadSyntax.py, line 5: SyntaxError: invalid syntax"),
    "bad_indent": ("  x = 1", r"methods/BadIndent.py, line 5: IndentationError"),
    "bad_bytes": ("x = 'NULBYTE'", r"SyntaxError|ValueError"),
    "raises": ("raise RuntimeError('two\\nlines [/red]')", r"line 5: RuntimeError: two lines \[/red\]\)"),
    "exits": ("sys.exit(3)", r"line 5: SystemExit: 3"),
    "interrupts": ("raise KeyboardInterrupt", r"line 5: KeyboardInterrupt"),
    "leaves": ("os._exit(0)", r"the process that imported it ended \(exit code 0\)"),
    "is_killed": ("os.kill(os.getpid(), 9)", r"the process that imported it was killed by signal 9"),
    "crashes": ("ctypes.string_at(0)", r"the process that imported it was killed by signal 11"),
    "becomes_another": ("os.execv('/bin/true', ['true'])", r"the process that imported it ended \(exit code 0\)"),
    "hangs": ("time.sleep(1000)", r"its import was not finished after 6 seconds"),
    "hangs_deafly": (
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: time.sleep(1)",
        r"its import was not finished after 6 seconds",
    ),
    "imports_itself": ("from methods.ImportsItself import Nothing", r"ImportError: cannot import name 'Nothing'"),
    "recurses": ("def f(): f()\nf()", r"RecursionError"),
}
LOUD = {
    "prints": "print('[]' * 100000); sys.stdout.flush(); sys.stderr.write('x' * 1000000)",
    "writes": "os.write(1, b'nonsense'); os.write(2, b'nonsense')",
    "closes": "os.close(1); os.close(2); os.close(0); sys.stdout = None",
    "reads": "sys.stdin.read()",
    "patches": "import json\njson.dumps = lambda *a, **k: '{}'",
    "patches_facts": "import methods.BaseMethod\nmethods.BaseMethod.BaseMethod.guarantee = 'of everybody'",
    "leaves_thread": "threading.Thread(target=time.sleep, args=(1000,)).start()",
    "leaves_process": "subprocess.Popen(['sleep', '1000'])",
    "moves": "os.chdir('/'); os.environ.clear(); sys.path.clear()",
}
MISPLACED = {
    "has_no_class": ("X = 1\n", "it has no class HasNoClass: the class is called as the file is"),
    "is_no_method": ("class IsNoMethod: pass\n", "IsNoMethod does not inherit from BaseMethod"),
    "is_a_function": ("def IsAFunction(): pass\n", "IsAFunction does not inherit from BaseMethod"),
    "is_empty": ("", "it has no class IsEmpty"),
}


@pytest.fixture(scope="module")
def bad_kit(make_kit: Callable[[], Kit]) -> Kit:
    """A kit with all of these."""
    kit = make_kit()
    for name, (top, _) in BROKEN.items():
        kit.add_method(name, method(name, top.replace("NULBYTE", "\0")))
    for name, top in LOUD.items():
        kit.add_method(name, method(name, top))
    for name, (text, _) in MISPLACED.items():
        kit.add_method(name, text)
    kit.add_method("is_gone", "")
    (kit.folder / "methods" / "IsGone.py").unlink()
    kit.add_method("several", method("several") + CLASS.replace("NAME", "Other").replace("BODY", ""))
    kit.add_method("called_otherwise", method("something_else"))
    return kit


@pytest.mark.slow
def test_a_file_that_cannot_be_used_is_named_and_harms_no_other(bad_kit: Kit, ask: Ask) -> None:
    """Whatever importing it does; all others are described, and nothing of `methods` is imported here.

    Catches one answer for all, which the first that exits takes with it.
    """
    answer = ask(bad_kit, limit=6.0)
    said = answer["methods"]
    assert answer["asked"] == 1
    assert answer["main"] == ["methods.BaseMethod", "methods.registry"]
    bad = {name for name, one in said.items() if isinstance(one, str)}
    assert bad == {*BROKEN, *MISPLACED, "is_gone"} | ({"patches"} & bad)
    for name, (_, what) in {**BROKEN, **MISPLACED}.items():
        file = f"methods/{name.title().replace('_', '')}.py"
        assert re.search(rf"^{name} can't be used: {file} .*{what}", said[name]), said[name]
        assert "\n" not in said[name]
    assert "methods/IsGone.py, which methods/__init__.py names, is not there" in said["is_gone"]
    for name in {*LOUD, "several", "called_otherwise"} - {"patches"}:
        assert said[name]["summary"] == "Multiply all weights.", name
    assert said["my_method"]["summary"].startswith("Fine-tune")


@pytest.mark.slow
def test_one_broken_file_leaves_every_command_to_the_others(make_kit: Callable[[], Kit], results: Path) -> None:
    """`list` shows it with its reason; gradings of others go on, and exit with 2 only if it was asked for.

    Catches a traceback of every command, `leaderboard` too.
    """
    kit = make_kit()
    kit.add_method("broken", method("broken", "import timm_of_nobody"))
    kit.add_method("halve", method("halve"))
    answers = {text: kit.run(*text.split()) for text in ("list", "schema", "completion", "list halve")}
    for text, answer in answers.items():
        assert answer.code == 0, (text, answer.stderr)
    assert "timm_of_nobody" in answers["list"].stdout
    for text in ("list broken", "tune -m broken --task digits", "-m broken", "audit membership -m broken"):
        answer = kit.run(*text.split())
        assert answer.code == 2
        (line,) = answer.stderr.strip().splitlines()
        assert re.match(r"error: broken can't be used: methods/Broken.py can't be imported .*timm_of_nobody", line)
    both = kit.run("-m", "broken,halve", *SMALL, "--json")
    assert both.code == 2
    assert "Traceback" not in both.stderr
    assert [report["method"]["name"] for report in json.loads(both.stdout)] == ["halve"]
    assert kit.run("-m", "halve", *SMALL).code == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("undefined_name", r"methods/__init__.py can't be imported \(line \d+, NameError"),
        ("'A' 'B', }}", r"methods/__init__.py can't be imported \(line \d+, SyntaxError"),
        ("Unknown", r"methods/__init__.py can't be imported \(line \d+, NameError"),
        ("None", "The entry 'odd' of methods/__init__.py can't be used: it must be the name of a class"),
        ("'My Idea'", "The entry 'odd' of methods/__init__.py can't be used: it must be the name of a class"),
        ("'methods/MyIdea.py'", "The entry 'odd' of methods/__init__.py can't be used"),
        ("3", "The entry 'odd' of methods/__init__.py can't be used"),
        ("'Absent'", "odd can't be used: methods/Absent.py, which methods/__init__.py names, is not there"),
    ],
)
def test_a_mistake_in_the_registry_is_a_sentence(entry: str, said: str, make_kit: Callable[[], Kit]) -> None:
    """What stands beside a name in `methods/__init__.py` is written by hand."""
    kit = make_kit()
    kit.edit("methods/__init__.py", "    entries = {\n", f'    entries = {{\n        "odd": {entry},\n')
    answer = kit.run("list", "odd")
    assert answer.code == 2
    (line,) = answer.stderr.strip().splitlines()
    assert re.match(f"error: {said}", line), line


@pytest.mark.slow
def test_a_broken_import_in_the_registry_is_a_sentence(make_kit: Callable[[], Kit]) -> None:
    """As one had to write it before: the file is then everybody's."""
    kit = make_kit()
    (kit.folder / "methods" / "Broken.py").write_text(method("broken", "import timm_of_nobody"))
    registry = "from methods.registry import Handlers\n"
    kit.edit("methods/__init__.py", registry, f"from methods.Broken import Broken\n{registry}")
    for text in ("list", "-m my_method", "completion"):
        answer = kit.run(*text.split())
        assert answer.code == 2
        (line,) = answer.stderr.strip().splitlines()
        assert re.match(r"error: methods/__init__.py can't be imported \(line \d+, ModuleNotFoundError: .*nobody", line)


def test_a_class_may_be_registered_as_before(make_kit: Callable[[], Kit], ask: Ask) -> None:
    """Imported at the top of the registry, for all processes."""
    kit = make_kit()
    (kit.folder / "methods" / "Old.py").write_text(method("old"))
    kit.edit("methods/__init__.py", "    entries = {\n", '    entries = {\n        "old": Old,\n')
    registry = "from methods.registry import Handlers\n"
    kit.edit("methods/__init__.py", registry, f"from methods.Old import Old\n{registry}")
    said = ask(kit, "old", "my_method")["methods"]
    assert said["old"]["files"].keys() == {"methods/Old.py"}
    assert said["old"]["code"] == method("old")
    assert said["my_method"]["files"].keys() == {"methods/MyMethod.py"}


# ----------------------------------------------------------------------------------------------------------------------
# The cache
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_nothing_is_asked_twice_until_something_changes(make_kit: Callable[[], Kit], ask: Ask, tmp_path: Path) -> None:
    """The file, a helper, a file elsewhere, a module that was not there, a variable, or a damaged cache.

    Catches a default that comes from the environment and stays what it was when somebody first asked.
    """
    kit = make_kit()
    other = tmp_path / "elsewhere.txt"
    other.write_text("1")
    top = (
        "from methods.helper import STEP\n"
        f"ELSEWHERE = open({str(other)!r}).read()\n"
        "SCALE = float(os.environ.get('SCALE_OF_TEST', '1'))\n"
        "try:\n    import methods.fast\nexcept ImportError:\n    pass\n"
    )
    kit.add_method("odd", method("odd", top).replace("= 1.0", "= SCALE"))
    (kit.folder / "methods" / "helper.py").write_text("STEP = 1\n")

    def asked(**environment: str) -> int:
        """How often it took a child."""
        answer = ask(kit, "odd", "my_method", **environment)
        assert isinstance(answer["methods"]["odd"], dict), answer["methods"]["odd"]
        return int(answer["asked"])

    assert [asked(), asked()] == [1, 0]
    assert asked(OTHER_VARIABLE="2") == 0
    assert ask(kit, "odd", SCALE_OF_TEST="2")["methods"]["odd"]["defaults"] == {"scale": "2.0"}
    assert ask(kit, "odd")["methods"]["odd"]["defaults"] == {"scale": "1.0"}
    changes: list[Callable[[], object]] = [
        lambda: (kit.folder / "methods" / "helper.py").write_text("STEP = 2\n"),
        lambda: (kit.folder / "methods" / "fast.py").write_text(""),
        lambda: other.write_text("22"),
        lambda: kit.edit("methods/Odd.py", "Multiply", "Divide"),
        lambda: kit.edit("methods/BaseMethod.py", "ATTRIBUTES = frozenset(", "OTHER = 1\n\nATTRIBUTES = frozenset("),
        lambda: [path.write_text("{}") for path in (tmp_path / "cache" / "methods").glob("*.json")],
        lambda: [path.write_text(path.read_text()[:99]) for path in (tmp_path / "cache" / "methods").glob("*.json")],
        lambda: shutil.rmtree(tmp_path / "cache"),
    ]
    for number, change in enumerate(changes):
        time.sleep(0.02)  # a file that is as young as the question is not kept
        change()
        time.sleep(0.02)
        assert asked() == 1, number
    assert asked() == 0


def test_a_cache_that_cannot_be_written_only_costs_time(make_kit: Callable[[], Kit], ask: Ask, tmp_path: Path) -> None:
    """Each process asks anew. Catches a sentence about a folder instead of a list of methods."""
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "methods").write_text("a file")
    kit = make_kit()
    for _ in range(2):
        assert ask(kit, "my_method")["asked"] == 1


@pytest.mark.slow
def test_a_process_that_fails_is_a_sentence(make_kit: Callable[[], Kit]) -> None:
    """If memory is short, say, or what it runs is broken: no traceback. Alone, and forked from the server."""
    kit = make_kit()
    kit.edit("evaluation/catalogue/describe.py", "    gc.freeze()\n", "    os.kill(os.getpid(), 9)\n")
    for text in ("list my_method", "-m my_method"):
        answer = kit.run(*text.split())
        assert answer.code == 2
        assert answer.stderr.startswith(
            "error: The process that reads the methods' files has failed (exit code -9): memory"
        )


@pytest.mark.slow
def test_a_process_that_is_forked_from_the_server_says_the_same(make_kit: Callable[[], Kit]) -> None:
    """It has imported more, and has an environment of its own. Catches one that describes with an old environment."""
    kit = make_kit()
    kit.add_method("leaves", method("leaves", "os._exit(0)"))
    kit.add_method("broken", method("broken", "import timm_of_nobody"))
    kit.add_method("odd", method("odd", "SCALE = float(os.environ['SCALE_OF_TEST'])").replace("= 1.0", "= SCALE"))
    program = (
        "import json, os; from checkpoints.server import start_server; from evaluation.catalogue import child\n"
        "from methods import all_method_handlers as a\n"
        "places = {name: a().where(name) for name in ('leaves', 'broken', 'odd', 'my_method', 'delete', 'kookmin')}\n"
        "if __name__ == '__main__':\n"
        "    start_server()\n    os.environ['SCALE_OF_TEST'] = '2'\n    answers = [child.describe(places)]\n"
        "    child.server_is_there = child.can_become_server = lambda: False\n"
        "    answers.append(child.describe(places))\n"
        "    print(json.dumps(answers))"
    )
    (kit.folder / "program.py").write_text(program)
    answer = subprocess.run([sys.executable, "program.py"], cwd=kit.folder, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    from_server, alone = json.loads(answer.stdout)
    assert from_server == alone
    assert from_server["odd"]["facts"]["hyper_parameters"][0]["default"] == 2.0


def test_a_broken_file_is_asked_again(make_kit: Callable[[], Kit], ask: Ask) -> None:
    """The package that it lacks may have been installed meanwhile."""
    kit = make_kit()
    kit.add_method("broken", method("broken", "import timm_of_nobody"))
    assert [ask(kit, "broken")["asked"] for _ in range(2)] == [1, 1]


# ----------------------------------------------------------------------------------------------------------------------
# The main process
# ----------------------------------------------------------------------------------------------------------------------

TELLING = """
import atexit, runpy, sys
sys.argv = ["main.py", *sys.argv[1:]]
sys.path[0] = "."

def tell():
    print("IMPORTED", *(name for name in sys.modules if name.startswith("methods.")), file=sys.stderr)

atexit.register(tell)
runpy.run_path("main.py", run_name="__main__")
"""


@pytest.mark.slow
def test_no_command_imports_a_method_in_the_main_process(kit: Kit, results: Path) -> None:
    """From `list` to a sequence of requests: of `methods` there is the registry, and what all inherit from.

    Catches a command that a file of a method could make anything of.
    """
    tiny = " ".join(SMALL)
    sweep = kit.folder / "sweep.yaml"
    sweep.write_text(
        "title: A\nfigure: budget\ntask: {name: digits, train_size: 60, test_size: 60, recipe: {epochs: 1}}\n"
        "seeds: 1\nx: epochs\nvalues: [1]\ncurves: [{name: a, method: finetune}]\n"
    )
    for text in (
        "list",
        "list constrained",
        "completion",
        f"-m my_method {tiny}",
        "leaderboard",
        f"-m certified_retrain {tiny}",
        f"-m hirs {tiny}",
        f"-m finetune {tiny} --forget class:3 --forget class:4",
        f"history {results}/HISTORY",
        f"certify {results}/CERTIFICATE",
        "tune -m finetune --train-size 60 --test-size 60 --recipe epochs=1 --models 8 --trials 2 --workers 1",
        "audit membership -m my_method --train-size 60 --test-size 60 --recipe epochs=1 --models 8 --originals 1",
        f"sweep {sweep} --jobs 1 --out {results}/sweep",
    ):
        if "CERTIFICATE" in text:
            text = text.replace(
                "CERTIFICATE", next(results.glob("*/*/certificate.json")).relative_to(results).as_posix()
            )
        if "HISTORY" in text:
            text = text.replace("HISTORY", next(results.glob("*/hirs*")).relative_to(results).as_posix())
        answer = kit.run_program(TELLING, *text.split())
        lines = [line.split()[1:] for line in answer.stderr.splitlines() if line.startswith("IMPORTED")]
        assert answer.code == 0, (text, answer.stderr)
        assert lines, (text, answer.stderr)
        for names in lines:
            assert set(names) <= {"methods.BaseMethod", "methods.registry"}, text


@pytest.mark.slow
def test_a_stranger_has_the_budget_of_everybody(make_kit: Callable[[], Kit], results: Path) -> None:
    """What its class says of itself is announced, and ignored; so is a class that is called like a reference."""
    kit = make_kit()
    kit.add_method("stranger", method("stranger", body="    exempt_from_budget = True\n"))
    heir = method("heir", "from methods.Retrain import Retrain").replace("(BaseMethod)", "(Retrain)")
    kit.add_method("heir", heir)
    answer = kit.run("-m", "stranger,heir,retrain", *SMALL, "--json")
    assert answer.code == 0, answer.stderr
    reports = json.loads(answer.stdout)
    assert [report["method"]["exempt_from_budget"] for report in reports] == [False, False, True]
    assert [report["cost"]["budget_seconds"] for report in reports] == [60, 60, None]
    for name in ("stranger", "heir"):
        assert f"{name} has the budget of every method" in answer.stderr
    assert "retrain has the budget" not in answer.stderr


@pytest.mark.slow
def test_a_constructor_of_its_own_is_asked(make_kit: Callable[[], Kit], results: Path) -> None:
    """In another process: what it refuses is a sentence, and so is one that can't be called."""
    kit = make_kit()
    refuses = (
        "    def __init__(self, **values):\n        super().__init__(**values)\n"
        "        if self.scale < 0:\n            raise ValueError('scale must be positive.')\n"
    )
    kit.add_method("picky", method("picky", body=refuses))
    kit.add_method("curious", method("curious", body="    def __init__(self, path):\n        pass\n"))
    assert kit.run("-m", "picky", *SMALL).code == 0
    answer = kit.run("-m", "picky", "--set", "scale=-1", *SMALL)
    assert (answer.code, answer.stderr.strip()) == (2, "error: scale must be positive.")
    answer = kit.run("-m", "curious", *SMALL)
    assert answer.code == 2
    assert answer.stderr.startswith("error: Curious can't be made (TypeError: ")


# ----------------------------------------------------------------------------------------------------------------------
# Methods that nobody registered
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_file_that_nobody_registered_is_graded(make_kit: Callable[[], Kit], results: Path) -> None:
    """By its path, its class or its name; the line that registers it is shown. Its config can be repeated.

    Registered under another name, it has that name.
    """
    kit = make_kit()
    (kit.folder / "methods" / "FreeIdea.py").write_text(method("free_idea"))
    for text in ("methods/FreeIdea.py", "FreeIdea", "free_idea"):
        answer = kit.run("-m", text, *SMALL, "--json")
        assert answer.code == 0, answer.stderr
        assert json.loads(answer.stdout)["method"]["name"] == "free_idea"
        line = 'free_idea is not registered: add the line "free_idea": "FreeIdea", to methods/__init__.py.'
        assert line in answer.stderr
    (config,) = results.glob("*/free_idea-*/config.yaml")
    assert kit.run("--config", str(config)).code == 0
    assert "free_idea" not in kit.run("list").stdout
    kit.edit("methods/__init__.py", "    entries = {\n", '    entries = {\n        "mine": "FreeIdea",\n')
    answer = kit.run("-m", "methods/FreeIdea.py", *SMALL, "--json")
    assert json.loads(answer.stdout)["method"]["name"] == "mine"
    assert "not registered" not in answer.stderr


CALLED = {
    "FreeIdea": "free_idea",
    "free_idea": "free_idea",
    "methods/FreeIdea.py": "free_idea",
    "./methods/FreeIdea.py": "free_idea",
    "methods/../methods/FreeIdea.py": "free_idea",
    "methods/FreeIdea": "free_idea",
    "methods.FreeIdea": "free_idea",
    "FreeIdea.py": "free_idea",
    "KIT/methods/FreeIdea.py": "free_idea",
    "NoisyFinetune": "noisy_finetune",
    "methods/NoisyFinetune.py": "noisy_finetune",
    "L1Sparse": "l1_sparse",
    "my_method.py": "methods/my_method.py would be called my_method",
    "methods/my_method.py": "methods/my_method.py would be called my_method, as another method is",
    "methods/BaseMethod.py": "There is no method 'methods/BaseMethod.py'",
    "BaseMethod": "There is no method 'BaseMethod'",
    "registry": "There is no method 'registry'",
    "__init__": "There is no method '__init__'",
    "methods/Absent.py": "There is no method 'methods/Absent.py'",
    "FreeIdeas": "There is no method 'FreeIdeas': did you mean",
    "free_ide": "There is no method 'free_ide': did you mean free_idea",
    "other/Stray.py": r"other/Stray.py is not in the folder methods/: copy it there, and say -m methods/Stray.py",
    "methods/deeper/Inner.py": "methods/deeper/Inner.py is not in the folder methods/",
    "methods": "There is no method 'methods'",
    "methods/": "There is no method 'methods/'",
    "..": "There is no method '..'",
    "TwinIdea": "methods/TwinIdea.py would be called twin_idea, as another method is",
}
"""What is typed, from the kit's folder, and the name of the method, or the sentence, that comes of it."""


def test_what_a_method_may_be_called(free_kit: Kit) -> None:
    """Name, class or file; the rest is a sentence."""
    program = (
        "import json, sys; from evaluation.spec import choose_methods, UserError\n"
        "def answer(text):\n"
        "    try: return ' '.join(choose_methods(text))\n    except UserError as error: return str(error)\n"
        "print(json.dumps([answer(text) for text in sys.argv[1:]]))"
    )
    texts = [text.replace("KIT", str(free_kit.folder)) for text in CALLED]
    answer = free_kit.run_program(program, *texts)
    for text, said, found in zip(texts, json.loads(answer.stdout), CALLED.values(), strict=True):
        assert re.match(found, said), text
        assert len(said.splitlines()) == 1


@pytest.fixture(scope="module")
def free_kit(make_kit: Callable[[], Kit]) -> Kit:
    """A kit with files that nobody registered, and some that can't have a name."""
    kit = make_kit()
    for path in ("FreeIdea", "my_method", "deeper/Inner", "../other/Stray", "TwinIdea", "Twin_Idea"):
        file = kit.folder / "methods" / f"{path}.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(method(file.stem))
    return kit


@pytest.mark.slow
def test_ctrl_c_ends_an_import_that_hangs(make_kit: Callable[[], Kit], tmp_path: Path) -> None:
    """With all that it has started. Catches processes that go on for nobody."""
    kit = make_kit()
    pid_file = tmp_path / "pid"
    kit.add_method("hangs", method("hangs", f"Path({str(pid_file)!r}).write_text(str(os.getpid()))\ntime.sleep(1000)"))
    process = kit.start("list", "hangs")
    until = time.monotonic() + 120
    while not pid_file.is_file() and time.monotonic() < until:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    answer = kit.finish(process, timeout=60)
    assert answer.code == 130
    assert "Traceback" not in answer.stderr
    until = time.monotonic() + 10
    while is_there(int(pid_file.read_text())):
        assert time.monotonic() < until
        time.sleep(0.05)


def is_there(process: int) -> bool:
    """Whether a process lives."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
def test_where_processes_cannot_be_forked_each_method_has_its_own(make_kit: Callable[[], Kit], tmp_path: Path) -> None:
    """As on macOS: the same facts, and one that leaves harms no other."""
    kit = make_kit()
    kit.add_method("leaves", method("leaves", "os._exit(0)"))
    kit.add_method("broken", method("broken", "import timm_of_nobody"))
    program = (
        "import json; from evaluation.catalogue import child; from methods import all_method_handlers as a\n"
        "places = {name: a().where(name) for name in ('my_method', 'leaves', 'broken', 'delete')}\n"
        "answers = []\n"
        "for forks in (True, False):\n    child.FORKS = forks\n    answers.append(child.describe(places))\n"
        "print(json.dumps(answers))"
    )
    answer = kit.run_program(program)
    forked: Any
    forked, alone = json.loads(answer.stdout)
    for name in ("my_method", "delete", "broken"):
        assert forked[name] == alone[name]
    assert "leaves can't be used: methods/Leaves.py can't be imported" in alone["leaves"]["error"]
