"""What each cheat should come to: in plain mode, and in the sandbox. docs/security.md promises it."""

from __future__ import annotations

PLAIN, SANDBOX = MODES = ("plain", "sandbox")

HONEST = "as the baseline"
"""Both runs leave exactly what those of the baseline leave: the trick did nothing."""
SUCCEEDS = "succeeds"
"""It gets what it wants. docs/security.md says that it can."""

ANYTHING = "its own affair"
"""Only others must not notice it."""

Expected = tuple[str, str]
"""In plain mode and in the sandbox: `HONEST`, `SUCCEEDS`, or a pattern of what is said of its runs, which fail."""


def both(pattern: str) -> Expected:
    """The same in both modes."""
    return pattern, pattern


BUDGET = both("it exceeded the budget of 0.6 seconds")
READS = (SUCCEEDS, HONEST)
"""Files, processes and settings of the machine are there to be read, but not in the sandbox."""

EXPECTED: dict[str, dict[str, Expected]] = {
    "Timers": {
        "honest": both(HONEST),
        "in_the_open": BUDGET,
        "in_a_child": BUDGET,
        "in_an_orphan": BUDGET,
        "in_a_program": BUDGET,
        "in_a_thread": BUDGET,
        "in_children_that_nobody_hears_of": BUDGET,
        "in_many_short_children": BUDGET,
        "with_signals_ignored": BUDGET,
        "with_clocks_of_its_own": BUDGET,
        "in_state_dict": BUDGET,
        "in_named_modules": BUDGET,
        "in_notes": BUDGET,
        "at_exit": both(HONEST),
        "in_one_that_stays": both(HONEST),
        "asleep": BUDGET,
        "stopped": BUDGET,
        "spinning": BUDGET,
    },
    "Readers": {
        "bank_models": READS,
        "bank_models_with_noise": READS,
        "bank_models_and_training": READS,
        "bank_seeds": READS,
        "bank_outputs": READS,
        "results_of_others": READS,
        "methods_of_others": READS,
        "environment": READS,
        "other_processes": READS,
        "test_images_in_memory": both(HONEST),
        "memory_of_the_room": (ANYTHING, HONEST),
        "images_of_a_package": both(SUCCEEDS),
    },
    "Writers": {
        "others_files": both(HONEST),
        "code_of_the_kit": both(HONEST),
        "the_network": both(HONEST),
        "the_log_of_the_grader": both(HONEST),
    },
    "States": {
        "in_globals": both(HONEST),
        "in_pytorch": both(HONEST),
        "in_the_images": both(HONEST),
        "in_the_original": both(HONEST),
        "in_tmp": READS,
        "in_a_closed_folder": READS,
        "in_shared_memory": READS,
        "beside_the_code": READS,
        "in_the_root": READS,
        "in_ipc": READS,
        "in_a_message_queue": READS,
        "in_the_keyring": READS,
        "in_a_daemon": both(HONEST),
        "in_limits_of_the_room": both(HONEST),
        "in_the_priority_of_the_room": both(HONEST),
        "after_the_death_of_the_room": both("the process that watches it was killed"),
        "listens_for_a_survivor": both(HONEST),
    },
    "Patches": {
        "everything_of_the_kit": both(HONEST),
        "recording": both(HONEST),
        "saving": both(HONEST),
        "layers": both(HONEST),
        "calls_of_modules": both(HONEST),
        "global_hooks": both(HONEST),
        "default_types": both(HONEST),
        "a_training_thread": both(ANYTHING),
        "tasks_in_memory": both(HONEST),
        "frames_of_the_callers": both(HONEST),
        "notes_that_run": both(HONEST),
        "weights_that_run": both(HONEST),
        "json_of_its_own": both(HONEST),
    },
    "Failures": {
        "ends": both(r"its process ended \(os._exit\(0\)\?\) before run\(\) returned"),
        "becomes_another": both("its process went on as another program"),
        "prints_without_end": both("it printed more than 1 MB"),
        "makes_a_large_log_at_once": both("it printed more than 1 MB"),
        "leaves_many_processes": both(r"it had \d+ child processes \(64 are allowed\)"),
        "starts_many_threads": both(r"it had \d+ threads"),
        "takes_memory": both("of memory"),
        "takes_memory_in_children": both("of memory"),
        "floods_the_pipe": both("it left what can't be read"),
        "announces_much": both(r"it left \d+ bytes, and \d+ are allowed"),
        "announces_and_dies": both("before run"),
        "announces_without_sending": both("budget"),
        "answers_nonsense": both("it left what can't be read"),
        "answers_deeply": both("it left what can't be read"),
        "answers_a_list": both("it left what can't be read"),
        "answers_odd_shapes": both("it left what can't be read"),
        "answers_negative_shapes": both("it left what can't be read"),
        "answers_many_tensors": both("a message with 200000 arrays"),
        "answers_pickles": both("it left what can't be read"),
        "answers_too_little": both("it left what can't be read"),
        "answers_without_weights": both("added or removed weights"),
        "complains_in_markup": both(r"RuntimeError: \[/red\] \[bold\]"),
        "complains_of_nothing": both(r"\{'a': \['b'\]\}"),
        "leaves_odd_names": both("it left what can't be read"),
        "leaves_long_names": both("it left what can't be read"),
        "leaves_other_names": both(r"added or removed weights \(.*\)"),
        "leaves_complex_weights": both("left complex numbers in 0.weight"),
        "leaves_huge_weights": both("left NaN or infinite values in 1.running_var"),
        "leaves_weights_of_one": both(r"changed the shape of 0.weight: \(1,\)"),
        "leaves_nan_logits": both("left weights with which outputs .* are NaN or infinite"),
        "notes_no_json": both("TypeError: .* not JSON serializable"),
        "notes_nested": both("it left what can't be read"),
        "notes_large": both("bytes of notes"),
        "notes_no_text": both("it left what can't be read"),
        "kills_the_room": both("the process that watches it was killed"),
        "stops_the_room": both("it exceeded the budget"),
        "starves_the_room": both("its process died with exit code 1|the process that watches it was killed"),
        "closes_everything": both("its process died with exit code 1"),
        "raises_what_nobody_catches": both("its process died with exit code 1"),
        "crashes": both("its process died with exit code -11"),
    },
    "Preparers": {
        "honest": both(HONEST),
        "finds_the_request": both(HONEST),
        "never_ends": both("preparing failed: it exceeded the budget of 1.8 seconds"),
        "waits": both("preparing failed: it exceeded the budget of 1.8 seconds"),
        "ends": both(r"preparing failed: its process ended \(os._exit\(0\)\?\)"),
    },
}
