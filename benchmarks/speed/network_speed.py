"""How do many models train in least time: grouped, by vmap, one by one? `python -m benchmarks.speed.network_speed`

A step of SGD on 16 models in batches of 64 random images, one thread, in each way of `checkpoints/together.py`, side by
side; the least time of several seconds. The last column is the way that the kit takes on a CPU. From such figures comes
`MOST_WORK` in `checkpoints/stacked.py`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.speed.small_networks import NETWORKS_TO_TIME
from checkpoints.grouped import GroupedNetwork
from checkpoints.stacked import StackedNetwork
from checkpoints.together import SeparateNetworks, Together, quickest_way
from evaluation.texts import in_markdown

MODELS, BATCH = 16, 64
WAYS: dict[str, type[GroupedNetwork] | type[StackedNetwork] | type[SeparateNetworks]] = {
    "grouped": GroupedNetwork,
    "stacked": StackedNetwork,
    "separate": SeparateNetworks,
}
WORDS = {"grouped": "grouped", "stacked": "by vmap", "separate": "one by one"}


def seconds_of_a_step(network: Together, images: Tensor, labels: Tensor, seconds: float) -> float:
    """Processor time of a step of training, the least of those that fit into so many seconds."""
    optimizer = torch.optim.SGD(network.train().parameters(), lr=0.01, momentum=0.9)
    least, began = float("inf"), time.monotonic()
    while time.monotonic() - began < seconds:
        step_began = time.process_time()
        optimizer.zero_grad()
        F.cross_entropy(network(images).flatten(0, 1), labels.flatten(), reduction="sum").backward()
        optimizer.step()
        least = min(least, time.process_time() - step_began)
    return least


def measure(build: Callable[[int, int, int], nn.Module], channels: int, size: int, seconds: float) -> dict[str, float]:
    """Seconds of a step in each way that computes what single networks do."""
    networks = [build(channels, size, 10) for _ in range(MODELS)]
    images = torch.randn(BATCH, MODELS, channels, size, size).transpose(0, 1)
    labels = torch.randint(10, (MODELS, BATCH))
    found = {}
    for name, make in WAYS.items():
        try:
            found[name] = seconds_of_a_step(make(networks), images, labels, seconds)
        except (TypeError, KeyError, RuntimeError, ValueError):  # it has no such layers
            continue
    return found


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5, help="for each network and way")
    seconds = parser.parse_args().seconds
    torch.set_num_threads(1)
    print("| network | images | one by one, ms a step | grouped | by vmap | taken on a CPU |")
    print("|---|---|---|---|---|---|")
    for name, (build, channels, size) in NETWORKS_TO_TIME.items():
        found = measure(build, channels, size, seconds)
        alone = found["separate"]
        taken = quickest_way(build, channels, size, 10, 3, on_cpu=True).name
        if taken != "grouped":  # what it computes then is something else
            found.pop("grouped", None)
        ratios = [f"{found[way] / alone:.2f}" if way in found else "" for way in ("grouped", "stacked")]
        cells = [in_markdown(name), f"{channels}x{size}x{size}", f"{1000 * alone:.1f}", *ratios, WORDS[taken]]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
