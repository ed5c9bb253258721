"""The command line: `python main.py -m my_method` grades a method. `python main.py --help` lists the rest."""

from __future__ import annotations

import atexit
import functools
import gc
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from data.errors import UserError

if TYPE_CHECKING:
    from data.task import TaskSpec
    from evaluation.report import Report
    from evaluation.sequence import SequenceReport
    from evaluation.tuned import Tuned

# The options that choose a task; several commands have them.
TaskName = Annotated[str, typer.Option(help="Data set and problem; see the command list.")]
Forget = Annotated[
    list[str] | None,
    typer.Option(
        help="What to forget: random:0.1, class:3, class:airplane, class:3:0.5, group:person_id:15, "
        "confuse:0.1 (mislabelled images), where:EXPRESSION, file:indices.npy. Several arrive one after another."
    ),
]
AtOnce = Annotated[bool, typer.Option("--at-once", help="Make one request of several --forget.")]
DataDir = Annotated[str | None, typer.Option(help="Where the images are (tasks folder and kaggle), or downloads.")]
Size = Annotated[str | None, typer.Option(help="Of a generated task: faces comes as mini (default) and full.")]
TrainSize = Annotated[int | None, typer.Option(help="Train on a class-balanced subset of so many.")]
TestSize = Annotated[int | None, typer.Option(help="Test on a class-balanced subset of so many.")]
Network = Annotated[str | None, typer.Option(help="Another network than the task's.")]
Features = Annotated[
    str | None,
    typer.Option(help="resnet18: its 512 features (ImageNet weights) in place of the images; network three_layer."),
]
RecipeValues = Annotated[
    list[str] | None, typer.Option("--recipe", help="Training recipe: epochs=30, learning_rate=0.1, ...")
]

# The options that say how to grade.
Models = Annotated[
    int | None,
    typer.Option(help="N: runs per original, and retrained models to compare with. [default: 64; task kaggle: 512]"),
]
Metric = Annotated[
    str,
    typer.Option(
        help="official: the competition's. notebook: the variant of the public CIFAR-10 notebook, whose numbers "
        "are several times as large and can't be compared with it."
    ),
]
WorkerCount = Annotated[int | None, typer.Option(help="Processes; default: one a core, or four to a GPU.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1; auto takes a GPU if there is one.")]
Settings = Annotated[list[str] | None, typer.Option("--set", help="A hyper-parameter: learning_rate=0.01.")]
Published = Annotated[
    bool, typer.Option("--published", help="Published hyper-parameters, also where tuned ones are there.")
]
Budget = Annotated[float, typer.Option(help="Most time of a run, as a fraction of retraining.")]
BudgetSeconds = Annotated[float | None, typer.Option(help="The same in seconds.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="No progress, no notes.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the report as JSON and nothing else.")]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, context_settings={"max_content_width": 110})


def friendly(command: Callable[..., None]) -> Callable[..., None]:
    """A user's mistake is one sentence and exit code 2; Ctrl-C says how to go on; our bugs keep their traceback."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            raise typer.Exit(2) from error
        except KeyboardInterrupt as interruption:
            saved = "Every finished model and run is saved: type the same command again to go on."
            print(f"\nInterrupted. {saved}", file=sys.stderr)
            raise typer.Exit(130) from interruption

    return wrapped


def defaults_from_config(context: typer.Context, path: Path | None) -> Path | None:
    """Let a `config.yaml` set the defaults of all other options, which the command line overrides."""
    if path is not None:
        from evaluation.spec import GradingSpec

        try:
            spec = GradingSpec.read(path)
            if spec.submission is not None:
                raise UserError(f"{path} is that of a graded zip: {spec.command(path)} grades it again.")
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            raise typer.Exit(2) from error
        context.default_map = spec.as_options()
    return path


@app.callback(invoke_without_command=True)
@friendly
def grade(
    context: typer.Context,
    method: Annotated[str | None, typer.Option("-m", "--method", help="Method to grade; a,b for several; all.")] = None,
    task: TaskName = "digits",
    forget: Forget = None,
    at_once: AtOnce = False,
    data_dir: DataDir = None,
    size: Size = None,
    train_size: TrainSize = None,
    test_size: TestSize = None,
    network: Network = None,
    features: Features = None,
    recipe: RecipeValues = None,
    originals: Annotated[
        int | None, typer.Option(help="K: original models, each graded by itself. [default: 2; task kaggle: 1]")
    ] = None,
    models: Models = None,
    protocol: Annotated[
        str, typer.Option(help="per-original, or full: N originals with one run each (the textbook definition).")
    ] = "per-original",
    set_: Settings = None,
    published: Published = False,
    tuned: Annotated[str | None, typer.Option(hidden=True)] = None,  # of --config: the values it was done with
    budget: Budget = 0.2,
    budget_seconds: BudgetSeconds = None,
    metric: Metric = "official",
    seed: Annotated[int, typer.Option(help="Seed of the grading.")] = 0,
    workers: WorkerCount = None,
    device: Device = "auto",
    phase: Annotated[
        str, typer.Option("-p", "--phase", help="dev: grade here. test: make the submission notebook and execute it.")
    ] = "dev",
    owner: Annotated[str | None, typer.Option(help="With -p test: your name on Kaggle, as in kaggle.com/NAME.")] = None,
    whole_module: Annotated[
        bool, typer.Option("--whole-module", help="With -p test: send the method's whole file.")
    ] = False,
    config: Annotated[
        Path | None,
        typer.Option(
            help="A config.yaml from results/: repeat that grading.", is_eager=True, callback=defaults_from_config
        ),
    ] = None,
    quiet: Quiet = False,
    json_: AsJson = False,
) -> None:
    """Grade machine-unlearning methods the way the NeurIPS 2023 competition did, on your own machine."""
    if context.invoked_subcommand is not None:
        return
    if method is None:
        print(context.get_help())
        return
    if phase not in ("dev", "test"):
        raise UserError(f"-p is dev or test, not {phase!r}.")
    if phase == "test":
        # Values tuned on some task are sent to Kaggle only if that task was named.
        source = context.get_parameter_source("task")
        named = source is not None and source.name != "DEFAULT"
        problem = None
        if named:
            problem = task_spec(task, forget, at_once, data_dir, size, train_size, test_size, network, recipe, features)
        make_notebooks(method, set_, owner, whole_module, problem if not published else None)
        return
    from checkpoints.workers import Workers, default_workers, start_server

    start_server()
    from checkpoints.devices import choose_device
    from data import task_info
    from evaluation.console import Console
    from evaluation.grading import grade_methods
    from evaluation.sequence import grade_sequences
    from evaluation.spec import GradingSpec, choose_methods, pairs
    from evaluation.views.terminal import show_result

    chosen = choose_methods(method)
    where = choose_device(device)
    problem = task_spec(task, forget, at_once, data_dir, size, train_size, test_size, network, recipe, features)
    usual = task_info(problem)
    originals = usual.originals if originals is None else originals
    models = usual.models if models is None else models
    settings = pairs("--set", set_)
    spec = GradingSpec("", problem, settings, originals, models, protocol, metric, seed, budget, budget_seconds)
    specs = [replace(spec, method=name, tuned=tuned_values(problem, name, published, tuned)) for name in chosen]
    in_turn = len(problem.forget) > 1 and not problem.at_once
    reports, failures = [], 0
    with Workers(default_workers(where) if workers is None else workers, where) as pool:
        for result in (grade_sequences if in_turn else grade_methods)(specs, pool, Console(quiet=quiet)):
            if isinstance(result, UserError):
                failures += 1
                print(f"error: {result}", file=sys.stderr)
                continue
            reports.append(result)
            if not json_:
                show_result(result)
    if json_ and (reports or len(specs) > 1):  # of one method that failed there is nothing to print
        print_json(reports, one=len(specs) == 1)
    if failures:
        raise typer.Exit(2)


def task_spec(
    name: str,
    forget: list[str] | None,
    at_once: bool,
    data_dir: str | None,
    size: str | None,
    train_size: int | None,
    test_size: int | None,
    network: str | None,
    recipe: list[str] | None,
    features: str | None = None,
) -> TaskSpec:
    """The task that the options choose."""
    from data.task import TaskSpec
    from evaluation.spec import pairs

    values = pairs("--recipe", recipe)
    return TaskSpec(
        name,
        tuple(forget or ()),
        train_size,
        test_size,
        data_dir,
        network,
        values,
        size,
        at_once=at_once and len(forget or ()) > 1,
        features=features,
    )


def tuned_values(problem: TaskSpec, method: str, published: bool, given: str | None) -> Tuned | None:
    """Tuned hyper-parameters: those `given` as JSON, else the kit's, unless the `published` ones are asked for."""
    from evaluation.tuned import Tuned, find_tuned

    if published:
        return None
    return Tuned.from_dict(json.loads(given)) if given else find_tuned(problem, method)


def make_notebooks(
    methods: str, settings: list[str] | None, owner: str | None, whole_module: bool, tuned_on: TaskSpec | None
) -> None:
    """Export methods as submission notebooks, each executed before it is handed over.

    With the values that were `tuned_on` a problem, if one is given and they are there.
    """
    import notebook_utils
    from evaluation.spec import choose_methods, pairs
    from evaluation.tuned import find_tuned

    for name in choose_methods(methods):
        tuned = find_tuned(tuned_on, name) if tuned_on else None
        values = {**dict(tuned.settings if tuned else ()), **dict(pairs("--set", settings))}
        notebook_utils.submit(name, values, owner, whole_module)


@app.command()
@friendly
def certify(
    certificate: Annotated[Path, typer.Argument(help="A certificate.json, or the notes of a certified run.")],
) -> None:
    """Recompute epsilon and delta of a certified method's run from its constants; exit code 1 if they don't hold."""
    from evaluation.certification.certificates import certify as recompute

    verdict = recompute(certificate)
    print(verdict)
    if not verdict.holds:
        raise typer.Exit(1)


@app.command()
@friendly
def history(
    directory: Annotated[Path, typer.Argument(help="A folder of results/, of a method that notes a history.")],
    out: Annotated[Path | None, typer.Option(help="PNG file; default: history.png in that folder.")] = None,
) -> None:
    """Show what runs have noted on their way: losses, multipliers, whatever the method keeps track of."""
    from rich.console import Console

    from evaluation.views.history import as_table, draw

    path = out or directory / "history.png"
    draw(directory, path)
    Console(highlight=False).print(as_table(directory))
    print(f"drawn in {path}")


@app.command("embed")
@friendly
def embed_(
    method: Annotated[str, typer.Option("-m", "--method", help="The method whose run is shown.")],
    task: TaskName = "digits",
    forget: Forget = None,
    at_once: AtOnce = False,
    data_dir: DataDir = None,
    size: Size = None,
    train_size: TrainSize = None,
    test_size: TestSize = None,
    network: Network = None,
    features: Features = None,
    recipe: RecipeValues = None,
    set_: Settings = None,
    published: Published = False,
    seed: Annotated[int, typer.Option(help="Seed of the grading.")] = 0,
    original: Annotated[int, typer.Option(help="Which original.")] = 0,
    retrained: Annotated[int, typer.Option(help="Which retrained model.")] = 0,
    run: Annotated[int, typer.Option(help="Which run from that original.")] = 0,
    out: Annotated[Path | None, typer.Option(help="PNG file; default: embedding.png among the results.")] = None,
    workers: WorkerCount = None,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Draw how an original, a retrained and an unlearned network see the images (t-SNE), side by side."""
    from checkpoints.workers import Workers, default_workers, start_server

    start_server()
    from checkpoints.devices import choose_device
    from evaluation.console import Console
    from evaluation.spec import GradingSpec, choose_one_method, pairs
    from evaluation.views.embedding import embed

    name = choose_one_method(method)
    where = choose_device(device)
    problem = task_spec(task, forget, at_once, data_dir, size, train_size, test_size, network, recipe, features)
    tuned = tuned_values(problem, name, published, None)
    spec = GradingSpec(name, problem, pairs("--set", set_), seed=seed, tuned=tuned)
    with Workers(default_workers(where) if workers is None else workers, where) as pool:
        path = embed(spec, pool, Console(quiet=quiet), original, retrained, run, out)
    print(path)


@app.command("membership")
@friendly
def membership_(
    method: Annotated[str, typer.Option("-m", "--method", help="The method whose runs are attacked.")],
    task: TaskName = "digits",
    forget: Forget = None,
    at_once: AtOnce = False,
    data_dir: DataDir = None,
    size: Size = None,
    train_size: TrainSize = None,
    test_size: TestSize = None,
    network: Network = None,
    recipe: RecipeValues = None,
    set_: Settings = None,
    published: Published = False,
    seed: Annotated[int, typer.Option(help="Seed of the grading.")] = 0,
    originals: Annotated[int, typer.Option(help="K: original models.")] = 2,
    runs: Annotated[int, typer.Option(help="Runs from each original.")] = 4,
    compat: Annotated[bool, typer.Option("--compat", help="Modified entropy as the published code has it.")] = False,
    workers: WorkerCount = None,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Attack originals, retrained and unlearned networks: whose forget set looks as if it had been trained on?"""
    from checkpoints.workers import Workers, default_workers, start_server

    start_server()
    from rich.console import Console as Screen

    from checkpoints.devices import choose_device
    from evaluation.audits.membership import measure
    from evaluation.console import Console
    from evaluation.spec import GradingSpec, choose_one_method, pairs

    name = choose_one_method(method)
    where = choose_device(device)
    problem = task_spec(task, forget, at_once, data_dir, size, train_size, test_size, network, recipe)
    tuned = tuned_values(problem, name, published, None)
    spec = GradingSpec(name, problem, pairs("--set", set_), originals=originals, seed=seed, tuned=tuned)
    with Workers(default_workers(where) if workers is None else workers, where) as pool:
        found, path = measure(spec, pool, Console(quiet=quiet), runs, compat)
    Screen(highlight=False).print(found.as_table())
    print(path)


def print_json(reports: Sequence[Report | SequenceReport], one: bool) -> None:
    """Print reports as JSON: an object if `one` was asked for, else a list."""
    objects = [report.to_dict() for report in reports]
    print(json.dumps(objects[0] if one else objects, indent=1))


@app.command("list")
@friendly
def list_(
    method: Annotated[str | None, typer.Argument(help="A method, to see its hyper-parameters.")] = None,
) -> None:
    """Show the methods and tasks, or the hyper-parameters of one method."""
    from evaluation.views.terminal import print_method, print_registries

    if method is None:
        print_registries()
    else:
        from evaluation.spec import choose_methods

        for name in choose_methods(method):
            print_method(name)


@app.command()
@friendly
def tune(
    method: Annotated[str, typer.Option("-m", "--method", help="Method to tune; a,b for several; all.")],
    trials: Annotated[int, typer.Option(help="Settings to try, those of earlier calls included.")] = 30,
    task: TaskName = "digits",
    forget: Forget = None,
    at_once: AtOnce = False,
    data_dir: DataDir = None,
    size: Size = None,
    train_size: TrainSize = None,
    test_size: TestSize = None,
    network: Network = None,
    features: Features = None,
    recipe: RecipeValues = None,
    models: Annotated[int, typer.Option(help="Runs of a trial that is not stopped early.")] = 32,
    set_: Settings = None,
    budget: Budget = 0.2,
    budget_seconds: BudgetSeconds = None,
    metric: Metric = "official",
    seed: Annotated[int, typer.Option(help="Seed of the search.")] = 0,
    workers: WorkerCount = None,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Search for a method's best hyper-parameters, on models and with seeds that no grading uses."""
    from checkpoints.workers import Workers, default_workers, start_server

    start_server()
    from checkpoints.devices import choose_device
    from evaluation import tuning
    from evaluation.console import Console
    from evaluation.spec import GradingSpec, choose_methods, pairs
    from evaluation.views.terminal import show_outcomes

    chosen = choose_methods(method)
    if method == "all":
        chosen = [name for name in chosen if tuning.can_be_tuned(name)]
    where = choose_device(device)
    problem = task_spec(task, forget, at_once, data_dir, size, train_size, test_size, network, recipe, features)
    spec = GradingSpec(
        "", problem, pairs("--set", set_), 1, models, "per-original", metric, seed, budget, budget_seconds
    )
    with Workers(default_workers(where) if workers is None else workers, where) as pool:
        outcomes = [tuning.tune(replace(spec, method=name), trials, pool, Console(quiet=quiet)) for name in chosen]
    show_outcomes(outcomes)


@app.command()
@friendly
def sweep(
    file: Annotated[Path, typer.Argument(help="A YAML file of benchmarks/sweeps/, or one like it.")],
    jobs: Annotated[int | None, typer.Option(help="Processes on each device; default as for --workers.")] = None,
    devices: Annotated[str, typer.Option(help="cpu, cuda, or a queue over several: cuda:0,cuda:1.")] = "auto",
    out: Annotated[Path | None, typer.Option(help="Folder for tables, figure and runs; default: in results/.")] = None,
    seeds: Annotated[int | None, typer.Option(help="Another number of seeds than the file's.")] = None,
    task: Annotated[str | None, typer.Option(help="Another task than the file's.")] = None,
    data_dir: DataDir = None,
    train_size: TrainSize = None,
    test_size: TestSize = None,
    network: Network = None,
    features: Features = None,
    quiet: Quiet = False,
) -> None:
    """Make a figure with its table: methods over a grid of settings, the best of which the validation set chooses."""
    from checkpoints.workers import start_server

    start_server()
    from checkpoints.devices import choose_device
    from evaluation.console import Console
    from evaluation.sweeps import sweep as make
    from evaluation.sweeps.outcome import as_markdown

    where = [choose_device(device.strip()) for device in devices.split(",")]
    named = {"name": task, "data_dir": data_dir, "train_size": train_size, "test_size": test_size}
    named |= {"network": network, "features": features}
    changes = {key: value for key, value in named.items() if value is not None}
    outcome, folder = make(file, where, jobs, Console(quiet=quiet), out, changes, seeds)
    print(as_markdown(outcome), end="")
    print(f"\nsaved {folder}: table.csv, table.json, table.md, figure.png")
    if outcome.failures:
        raise UserError(f"{len(outcome.failures)} failed, see above; the same command tries failed runs again.")


@app.command()
@friendly
def leaderboard(
    task: Annotated[str | None, typer.Option(help="Only this task.")] = None,
    csv: Annotated[bool, typer.Option("--csv", help="As comma-separated values, unrounded.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="As Markdown tables.")] = False,
) -> None:
    """Rank the graded methods; one table for each set of comparable conditions."""
    from data import all_tasks
    from data.errors import unknown_name
    from evaluation.report import results_folder
    from evaluation.views import leaderboard as board
    from evaluation.views.terminal import print_table

    if task is not None and task not in all_tasks():
        raise unknown_name("task", task, all_tasks())
    reports = [report for report in board.read_reports(results_folder()) if task in (None, report.task)]
    if not reports:
        flag = "" if task is None else f" --task {task}"
        raise UserError(f"Nothing has been graded yet: python main.py -m my_method{flag} does it.")
    tables = board.tables(reports)
    if csv:
        print(board.as_csv(tables), end="")
    elif markdown:
        print("\n\n".join(board.as_markdown(rows) for rows in tables))
    else:
        for rows in tables:
            print_table(rows)


@app.command()
@friendly
def score(
    directory: Annotated[Path, typer.Argument(help="A folder of results/, with outputs.npz and config.yaml.")],
    metric: Annotated[str | None, typer.Option(help="official or notebook; default: that of the grading.")] = None,
    json_: AsJson = False,
) -> None:
    """Score stored outputs again, without running anything."""
    from evaluation.console import Console
    from evaluation.grading import score_again, warn_of_metric
    from evaluation.views.terminal import show_report

    report = score_again(directory, metric)
    warn_of_metric(report.metric, Console())
    if json_:
        print_json([report], one=True)
    else:
        show_report(report)


@app.command("grade")
@friendly
def grade_zip(
    submission: Annotated[Path, typer.Argument(help="A submission.zip: the checkpoints of one method.")],
    name: Annotated[str | None, typer.Option(help="Its name on the leaderboard; default: that of the file.")] = None,
    task: TaskName = "kaggle",
    forget: Forget = None,
    at_once: AtOnce = False,
    data_dir: DataDir = None,
    size: Size = None,
    train_size: TrainSize = None,
    test_size: TestSize = None,
    network: Network = None,
    features: Features = None,
    recipe: RecipeValues = None,
    models: Models = None,
    metric: Metric = "official",
    workers: WorkerCount = None,
    device: Device = "auto",
    quiet: Quiet = False,
    json_: AsJson = False,
) -> None:
    """Grade a zip of checkpoints that were made elsewhere, all from one original.

    It is ranked among gradings with one original: the default of -m for task kaggle, --originals 1 for others.
    What is shown for doing nothing is the bank's original 0, not the original that the checkpoints came from.
    """
    from checkpoints.workers import Workers, default_workers, start_server

    start_server()
    from checkpoints.devices import choose_device
    from data import task_info
    from evaluation import grading
    from evaluation.console import Console
    from evaluation.spec import GradingSpec
    from evaluation.views.terminal import show_report

    problem = task_spec(task, forget, at_once, data_dir, size, train_size, test_size, network, recipe, features)
    count = task_info(problem).models if models is None else models
    label = "".join(letter if letter.isalnum() else "_" for letter in name or submission.stem)
    zipped = str(submission.resolve())
    spec = GradingSpec(label, problem, originals=1, models=count, metric=metric, submission=zipped)
    where = choose_device(device)
    with Workers(default_workers(where) if workers is None else workers, where) as pool:
        report = grading.grade_submission(submission, spec, pool, Console(quiet=quiet))
    if json_:
        print_json([report], one=True)
    else:
        show_report(report)


@app.command()
@friendly
def show(
    task: TaskName = "digits",
    forget: Forget = None,
    at_once: AtOnce = False,
    data_dir: DataDir = None,
    size: Size = None,
    train_size: TrainSize = None,
    test_size: TestSize = None,
    network: Network = None,
    features: Features = None,
    recipe: RecipeValues = None,
    out: Annotated[Path | None, typer.Option(help="PNG file; default: contact-sheet.png among the results.")] = None,
) -> None:
    """Draw a contact sheet of a task: its classes, its subjects, and what is to be forgotten."""
    from data import load
    from evaluation.report import results_folder
    from evaluation.views.contact_sheet import draw

    problem = load(task_spec(task, forget, at_once, data_dir, size, train_size, test_size, network, recipe))
    path = out or results_folder() / f"{problem.name}-{problem.fingerprint}" / "contact-sheet.png"
    draw(problem, path)
    print(f"{path}: {len(problem.train)} training images, {len(problem.request_indices)} to forget")
    if features is not None:
        print("Drawn are the images themselves; what a network makes of their features, python main.py embed shows.")


def leave_quickly() -> None:
    """On leaving, don't look for garbage: half a second. (The compiler would report what it finds still alive.)"""
    if "torch._dynamo" not in sys.modules:
        gc.freeze()


def main() -> None:
    """Start the command line: `python main.py`, and the command `unlearning-kit` of an installed kit."""
    gc.set_threshold(100_000)  # importing PyTorch makes half a million objects, and all of them stay
    atexit.register(leave_quickly)
    app()


if __name__ == "__main__":
    main()
