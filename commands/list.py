"""`python main.py list`: what there is to choose from."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter


def command(method: Annotated[str | None, Parameter(help="Show this method's hyper-parameters.")] = None, /) -> None:
    """List the methods, tasks, networks and audits, or the hyper-parameters of one method."""
    from evaluation.views.terminal import print_method, print_registries

    if method is None:
        print_registries()
    else:
        from evaluation.spec import choose_methods

        for name in choose_methods(method):
            print_method(name)
