"""`source <(python main.py completion)`: complete words in your shell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from cyclopts import App


def command() -> None:
    """Print a script that completes commands, options and names in bash and zsh: source <(python main.py completion).

    It knows the methods, tasks and networks that are registered now: run it again after you add one.
    """
    print(script(), end="")


def values() -> dict[str, list[str]]:
    """The values that are known beforehand, by option."""
    from checkpoints.networks import NETWORKS
    from data import all_tasks
    from data.features import FEATURES
    from evaluation.catalogue.lookup import registry
    from evaluation.metrics import METRICS
    from evaluation.spec import PROTOCOLS

    return {
        "--method": [*registry(), "all"],
        "--task": list(all_tasks()),
        "--network": list(NETWORKS),
        "--metric": list(METRICS),
        "--protocol": list(PROTOCOLS),
        "--phase": ["dev", "test"],
        "--device": ["auto", "cpu", "cuda"],
        "--features": [*FEATURES],
    }


def script() -> str:
    """The script, for bash; zsh emulates it."""
    from commands import COMMANDS, make_app
    from evaluation.audits import AUDITS
    from evaluation.suites.suite import names_of_suites

    app = make_app()
    flags, taking = {"": options(app)}, set(taking_values(app))
    for name in COMMANDS:
        flags[name] = options(app[name])
        taking |= set(taking_values(app[name]))
    known = {**values(), "-m": values()["--method"], "-p": ["dev", "test"]}
    flags[""] += [*COMMANDS, "--help", "--version"]
    flags["list"] += known["--method"]
    flags["audit"] += AUDITS
    flags["schema"] += AUDITS
    flags["suite"] += names_of_suites()
    return (
        TEMPLATE.replace("COMMANDS", "|".join(COMMANDS))
        .replace("VALUES", cases(known))
        .replace("OTHERS", "|".join(sorted(taking - set(known))))
        .replace("FLAGS", cases(flags))
    )


def options(app: App) -> list[str]:
    """The flags of a command, without their short forms."""
    arguments = app.assemble_argument_collection()
    return [name for argument in arguments if argument.show for name in argument.names if name.startswith("--")]


def taking_values(app: App) -> list[str]:
    """The flags of a command that are followed by a value."""
    arguments = app.assemble_argument_collection()
    return [
        name for argument in arguments if argument.hint is not bool for name in argument.names if name.startswith("-")
    ]


def cases(words: Mapping[str, Iterable[str]]) -> str:
    """Branches of a `case` of the shell, which set the words to choose from."""
    return "\n".join(f'        {key or "main"}) words="{" ".join(sorted(found))}" ;;' for key, found in words.items())


TEMPLATE = r"""# Completes `python main.py ...` in bash and zsh.
[ -n "$ZSH_VERSION" ] && autoload -Uz compinit bashcompinit && compinit -u && bashcompinit
_unlearning_kit() {
    local current="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}" first=1 command=main words="" done=""
    COMPREPLY=()
    case "${COMP_WORDS[0]##*/}" in
        python*) case "${COMP_WORDS[1]}" in main.py|*/main.py) first=2 ;; *) return ;; esac ;;
    esac
    [ "$COMP_CWORD" -lt "$first" ] && return
    if [ "$COMP_CWORD" -gt "$first" ]; then
        case "${COMP_WORDS[first]}" in COMMANDS) command="${COMP_WORDS[first]}" ;; esac
    fi
    case "$command" in
FLAGS
    esac
    case "$before" in
VALUES
        OTHERS) return ;;
    esac
    case "$before" in
        -m|--method) case "$current" in *,*) done="${current%,*}," current="${current##*,}" ;; esac ;;
    esac
    COMPREPLY=( $(compgen -P "$done" -W "$words" -- "$current") )
}
complete -o default -F _unlearning_kit python python3 main.py unlearning-kit
"""
