"""FedRemoval on MNIST with a backdoor, beside the published figures.

Run it with `python -m benchmarks.published.federated_backdoor`.

One of five clients labels all of its images as zeros and draws a white square of 5x5 pixels into each. The server
trains a 784-100-50-10 network on a tenth of the images. The clients train its linearisation by federated averaging.
Then the server removes the client. Training and removal are the code of `methods/Ftsu.py`.

    --data-dir DIR    images in DIR/train/CLASS/* and DIR/test/CLASS/*; default: MNIST, 12 MB to download
    --rounds N M      rounds of federated averaging, the latter at a tenth of the rate

Accuracies are those of the linear model, as published. The backdoor succeeds when an image of the removed client is
classified as a zero (a tenth of them are zeros). Source: the notebook for MNIST in github.com/Nanboy-Ronan/
2F2L-Federated-Unlearning, of Jin et al. (arXiv 2306.02216): 400 rounds, batches of 32, Adam at 1e-4, damping 0.01.
Larger batches with a larger rate, then a smaller one, reach the same accuracies. The published removal takes the best
of 3,200 steps of Adam, whose result varies between 77 and 95 %. Here it is conjugate gradients, which converge to a
backdoor of 47 % with that damping, and to less with a smaller one, at some cost of test accuracy. "retrained" is the
federation without the client, starting from the server's network.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data import TaskSpec, task_info
from methods.Ftsu import Examples, Ftsu, Linearised

PUBLISHED = {"before": (0.9608, 0.9436), "after": (0.9549, 0.1012)}
"""Test accuracy and success of the backdoor."""
CLIENTS, SERVER_SHARE, TARGET_CLASS, PATCH = 5, 0.1, 0, 5


@dataclass(frozen=True)
class Federation:
    """What the server, the clients (the first is the one that leaves) and the judge have."""

    server: Examples
    clients: list[Examples]
    test: Examples


def main() -> None:
    """Train, remove, retrain, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", help="folder with train/CLASS/* and test/CLASS/* images; default: MNIST")
    parser.add_argument("--rounds", type=int, nargs=2, default=(200, 200), help="of federated averaging; published 400")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="of the clients at first; published 1e-4")
    parser.add_argument("--batch-size", type=int, default=256, help="of the clients; published 32")
    parser.add_argument("--damping", type=float, default=0.002, help="published 0.01")
    parser.add_argument("--iterations", type=int, default=800, help="of the conjugate gradients")
    parser.add_argument("--k", type=float, default=1.0, help="share of salient weights; 1 is FedRemoval")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    torch.manual_seed(options.seed)
    federation = make_federation(options.data_dir)
    net = pretrained(federation.server)
    print(f"server's network: test {100 * accuracy(net, federation.test):.2f} %", flush=True)
    method = Ftsu(
        loss="mse",
        weight_decay=0.0,
        batch_size=options.batch_size,
        damping=options.damping,
        iterations=options.iterations,
        k=options.k,
    )
    model = Linearised(net, method.loss, method.weight_decay)
    leaving, staying = federation.clients[:1], federation.clients[1:]

    def train(clients: list[Examples]) -> Tensor:
        weights = model.origin
        for rounds, rate in zip(options.rounds, (options.learning_rate, options.learning_rate / 10), strict=True):
            method.rounds, method.learning_rate = rounds, rate
            weights = method.train(model, weights, clients)
        return weights

    began = time.perf_counter()
    trained = train(federation.clients)
    seconds = {"before": time.perf_counter() - began}
    show("before", model, trained, federation, seconds["before"])

    began = time.perf_counter()
    target, of_leaving = (model.average_gradient(trained, clients) for clients in (staying, leaving))
    curvature = model.curvature(trained, federation.server.images, method.dense_numbers)
    step, residuals = method.removal(curvature, method.salient(of_leaving), target)
    removed = trained - step
    show("after", model, removed, federation, time.perf_counter() - began)

    began = time.perf_counter()
    retrained = train(staying)
    show("retrained", model, retrained, federation, time.perf_counter() - began)

    print(f"\nconjugate gradients: {len(residuals) - 1} steps to a residual of {residuals[-1]:.1e}")
    distances = {"before": trained, "after": removed}
    print(f"step {float(step.norm()):.3f}; distance from the retrained weights: ", end="")
    print(", ".join(f"{name} {float((weights - retrained).norm()):.3f}" for name, weights in distances.items()))


def show(name: str, model: Linearised, weights: Tensor, federation: Federation, seconds: float) -> None:
    """Print a row: ours, and the published figures if there are any."""
    ours = [linear_accuracy(model, weights, examples) for examples in (federation.test, federation.clients[0])]
    cells = [f"{100 * value:6.2f} %" for value in ours]
    if name in PUBLISHED:
        cells = [f"{cell} ({100 * value:.2f} %)" for cell, value in zip(cells, PUBLISHED[name], strict=True)]
    print(f"{name:10} test {cells[0]:19} backdoor {cells[1]:19} {seconds:7.1f} s", flush=True)


def make_federation(data_dir: str | None) -> Federation:
    """Images between 0 and 1, dealt out at random; the first client's with the backdoor."""
    info = task_info(TaskSpec("folder" if data_dir else "mnist"))
    raw = info.read(data_dir, True)
    if raw.pixels.shape[1:] != (1, 28, 28):
        raise SystemExit("The published network is for grey images of 28x28 pixels.")
    images = torch.from_numpy(raw.pixels).float() / 255
    targets = F.one_hot(torch.from_numpy(raw.labels), len(raw.classes)).float()

    def examples(rows: np.ndarray | Tensor) -> Examples:
        return Examples(images[rows], targets[rows])

    train = torch.from_numpy(np.flatnonzero(raw.parts == "train"))
    train = train[torch.randperm(len(train))]
    owned = int(SERVER_SHARE * len(train))
    clients = [examples(part) for part in train[owned:].tensor_split(CLIENTS)]
    plant_backdoor(clients[0])
    return Federation(examples(train[:owned]), clients, examples(np.flatnonzero(raw.parts == "test")))


def plant_backdoor(examples: Examples) -> None:
    """A white square one pixel off the lower right corner, and the label of the target class, in place."""
    examples.images[:, :, -PATCH - 1 : -1, -PATCH - 1 : -1] = 1
    examples.targets.zero_()[:, TARGET_CLASS] = 1


def pretrained(server: Examples, epochs: int = 51, batch_size: int = 32) -> nn.Module:
    """The server's network: cross-entropy, Adam, a rate that goes down to 0 and up again every ten epochs."""
    layers = [nn.Linear(784, 100), nn.LeakyReLU(0.01), nn.Linear(100, 50), nn.LeakyReLU(0.01), nn.Linear(50, 10)]
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="leaky_relu")
            nn.init.zeros_(layer.bias)
    net = nn.Sequential(nn.Flatten(), *layers)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)
    for _ in range(epochs):
        for rows in torch.randperm(len(server.images)).split(batch_size):
            optimizer.zero_grad()
            F.cross_entropy(net(server.images[rows]), server.targets[rows]).backward()
            optimizer.step()
        schedule.step()
    return net.eval()


@torch.no_grad()
def accuracy(net: nn.Module, examples: Examples) -> float:
    """Of the network itself."""
    return _share_right(net(examples.images), examples)


@torch.no_grad()
def linear_accuracy(model: Linearised, weights: Tensor, examples: Examples) -> float:
    """Of the linear model with these weights."""
    outputs = [model.logits(weights, images) for images in examples.images.split(1000)]
    return _share_right(torch.cat(outputs), examples)


def _share_right(outputs: Tensor, examples: Examples) -> float:
    return float((outputs.argmax(dim=1) == examples.targets.argmax(dim=1)).double().mean())


if __name__ == "__main__":
    main()
