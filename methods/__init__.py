"""The unlearning methods. To add one: write `methods/MyIdea.py` with a class that inherits from `BaseMethod`,
import it here, and give it a name below; then `python main.py -m my_idea` grades it."""

from __future__ import annotations

from methods.BaseMethod import BaseMethod
from methods.DoNothing import DoNothing
from methods.MyMethod import MyMethod
from methods.NoisyFinetune import NoisyFinetune
from methods.Retrain import Retrain


def all_method_handlers() -> dict[str, type[BaseMethod]]:
    """Every registered method by the name that the command line knows it by."""
    return {
        "my_method": MyMethod,
        "noisy_finetune": NoisyFinetune,
        "do_nothing": DoNothing,
        "retrain": Retrain,
    }
