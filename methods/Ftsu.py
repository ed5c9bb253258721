"""Remove a client from a simulated federation: a Newton step of the linearised network, on salient weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, jvp, vjp, vmap
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from methods.BaseMethod import BaseMethod, Between, Loader

LOSSES = ("mse", "cross_entropy")
BATCH = 256
"""Most images whose derivatives are computed at once."""
DELTA = 1e-5
"""The delta that goes with the heuristic epsilon of a `noise`."""
MOST_IDS = 10_000
"""Of more images in all, `notes` have no manifest."""

Product = Callable[[Tensor], Tensor]


class Examples(NamedTuple):
    """What a client, or the server, owns."""

    images: Tensor  # (n, C, H, W)
    targets: Tensor  # one-hot labels, (n, classes)


class Ftsu(BaseMethod):
    """Remove a federated client by a Newton step of the linearised network on salient weights, then repair.

    The forget set is the client that leaves (or `forget_clients` of them), the retain set is the server's share and
    the clients that stay. With w0 the weights handed over and J(x) the Jacobian there, the network is taken for its
    linearisation f(x; w0) + J(x) (w - w0). Its loss is the mean of |output - one-hot|^2 / 2 (or the cross-entropy)
    plus lambda |w|^2 / 2, lambda the `weight_decay`. All of this happens in one process:

        train    `rounds` of FedAvg from w0: each client takes Adam's steps for an epoch, the server averages by size
        store    the gradient of each client's loss at w; g is the average of those that stay
        impair   w <- w - v, where H v = g by conjugate gradients, H = mean of J^T A J over the server's images +
                 `damping`, A the second derivative of the loss by the output; v is 0 but for the share k of the
                 weights with the largest |gradient of the client that leaves|. No client takes part in it
        repair   Adam on the server's images and the same weights; when an epoch doesn't lower the validation loss, it
                 is taken back and the repair ends

    k = 1 without repair is FedRemoval, `iterations` = 0 is repair alone. The result is handed over as weights of the
    network itself, which is not linear: `linearisation_gap` in `notes` is the root mean square of what that changes in
    logits. `notes` also bounds the distance to the weights u of a linear model retrained by the clients that stay:

        distance_bound        |gradient of their loss at the result| / lambda; holds for whatever leads to the result
        distance_bound_paper  mse alone: sqrt(6 / damping Q + 3 kappa^2 |w - u|^2) + what noise and repair moved, with
                              Q <= |H v - g|^2 / (2 damping), kappa = |H - H of the clients that stay| / damping,
                              |w - u| <= |g| / lambda, and no error of the retraining

    They have the manifest of the federation, too: the ids of the images that the server and each client own
    (`server_image_ids`; `client_image_ids`, of clients that leave first), unless there are more than 10,000 in all.

    Both are distances and no (epsilon, delta) guarantee (`heuristic_epsilon` takes the first, of the removal before
    the noise, for a sensitivity), and both are far larger than the weights where lambda and damping are small: they
    prove nothing then. On a pruned network they are of the weights before the mask is applied again.

    Source: Jin et al., "Forgettable Federated Linear Learning with Certified Data Removal" (arXiv 2306.02216), for
    training, removal and bound, which as printed lacks a factor |H^-1|; saliency and repair are this kit's idea.
    Published: mse, 400 rounds, k 1, damping 0.01; their paper has damping = lambda, their code lambda = 0 and Adam for
    conjugate gradients. Their w0 never saw the client; the kit's network did, so that f(x; w0) and J remember it. Its
    logits are those of cross-entropy besides, far from one-hot: "mse" takes a step that it does not survive.
    """

    published_figures = "test 96.1 to 95.5, backdoor 94.4 to 10.1 % (MNIST)"
    search_space: ClassVar = {
        "k": Between(0.01, 1.0, log=True),
        "damping": Between(1e-2, 100, log=True),
        "weight_decay": Between(1e-5, 1e-1, log=True),
        "noise": Between(0, 0.2),
        "repair_learning_rate": Between(1e-4, 3e-2, log=True),
    }

    clients: int = 5
    """Clients of the federation; published 5 to 20."""
    forget_clients: int = 1
    """How many of them leave; the forget set is dealt among these."""
    server_rate: float = 0.1
    """Share of the retain set that is the server's."""
    dirichlet: float = 0.0
    """Concentration of the clients' shares of each class, small is uneven; 0 deals images out evenly at random."""
    rounds: int = 1
    """Rounds of federated training before the removal."""
    learning_rate: float = 1e-4
    """Step size of Adam in that training."""
    batch_size: int = 32
    """Images in a step of a client or of the repair."""
    loss: str = "cross_entropy"
    """Either "mse" (published) or "cross_entropy" (what the kit's networks are trained with)."""
    weight_decay: float = 5e-4
    """lambda; the value that most networks of the kit are trained with."""
    k: float = 0.3
    """Share of the weights that are salient."""
    damping: float = 0.1
    """What is added to the diagonal of H; with 0.01 networks on digits break."""
    iterations: int = 50
    """Most steps of the conjugate gradients."""
    tolerance: float = 1e-5
    """They stop at a residual of this share of g."""
    repair_epochs: int = 1
    """Most epochs of repair, 5 at most in the research idea, 1 to stay in the budget; 0 leaves it out."""
    repair_learning_rate: float = 1e-3
    """Step size of Adam in the repair."""
    noise: float = 0.0
    """Standard deviation of Gaussian noise on all weights, between removal and repair."""
    norm_iterations: int = 5
    """Power iterations for the norm in kappa, which they reach from below; 0 leaves out the paper's bound."""
    dense_numbers: int = 20_000_000
    """The server's Jacobian is kept if it has no more numbers; otherwise its products are computed each time."""

    def run(self, net: nn.Module, retain_loader: Loader, forget_loader: Loader, val_loader: Loader) -> None:
        """See `BaseMethod.run`. Raises `ValueError` for an unknown `loss`, no damping, or no client on a side."""
        if self.loss not in LOSSES:
            raise ValueError(f"loss is one of {', '.join(LOSSES)}, not {self.loss!r}.")
        if not self.damping > 0:
            raise ValueError(f"damping must be greater than 0, not {self.damping}: H need not have an inverse.")
        if not 0 < self.forget_clients < self.clients:
            raise ValueError(f"{self.forget_clients} of {self.clients} clients can't leave: one must, one must stay.")
        net.eval()
        retained, retained_ids = _examples(net, retain_loader)
        forgotten, forgotten_ids = _examples(net, forget_loader)
        validation, _ = _examples(net, val_loader)
        order = torch.randperm(len(retained.images))
        owned = max(1, round(self.server_rate * len(order)))
        own, others = order[:owned], order[owned:]  # rows of the server, and of those that stay
        stay = [others[rows] for rows in self.deal(_take(retained, others), self.clients - self.forget_clients)]
        leave = self.deal(forgotten, self.forget_clients)
        server = _take(retained, own)
        staying = [_take(retained, rows) for rows in stay]
        leaving = [_take(forgotten, rows) for rows in leave]

        model = Linearised(net, self.loss, self.weight_decay)
        trained = self.train(model, model.origin, [*leaving, *staying])
        target, of_leaving = (model.average_gradient(trained, clients) for clients in (staying, leaving))
        mask = self.salient(of_leaving)
        curvature = model.curvature(trained, server.images, self.dense_numbers)
        step, residuals = self.removal(curvature, mask, target)
        removed = trained - step
        released, losses = self.repair(model, removed + self.noise * torch.randn_like(step), mask, server, validation)
        vector_to_parameters(released, net.parameters())

        left_over = curvature(step) + self.damping * step - target  # with a mask, not small outside of it
        self.notes = {
            "server_images_by_class": _counts(server),
            "client_images_by_class": [_counts(client) for client in [*leaving, *staying]],
            "residuals": residuals,
            "residual_of_all_weights": float(left_over.norm() / target.norm()),
            "validation_losses": losses,
            "weights_norm": float(trained.norm()),
            "step_norm": float(step.norm()),
            "linearisation_gap": model.gap(released, server.images),
        }
        if len(retained_ids) + len(forgotten_ids) <= MOST_IDS:
            self.notes["server_image_ids"] = _named(retained_ids, own)
            clients = [(forgotten_ids, rows) for rows in leave] + [(retained_ids, rows) for rows in stay]
            self.notes["client_image_ids"] = [_named(ids, rows) for ids, rows in clients]
        if self.weight_decay > 0:
            self.notes["distance_bound"] = float(model.average_gradient(released, staying).norm()) / self.weight_decay
            if self.noise:  # which must not count for what it is to hide
                sensitivity = float(model.average_gradient(removed, staying).norm()) / self.weight_decay
                self.notes["heuristic_epsilon"] = sensitivity * math.sqrt(2 * math.log(1.25 / DELTA)) / self.noise
            if self.loss == "mse" and self.norm_iterations:
                of_staying = model.curvature(trained, _together(staying).images, dense_numbers=0)
                before_repair = self.paper_bound(curvature, of_staying, target, left_over)
                self.notes["distance_bound_paper"] = before_repair + float((released - removed).norm())

    def deal(self, examples: Examples, clients: int) -> list[Tensor]:
        """The rows that each client owns, int64 `(n,)`; those that go away empty-handed are no clients."""
        owners = torch.randperm(len(examples.images)) % clients
        if self.dirichlet:
            labels = examples.targets.argmax(dim=1).cpu()
            for label in labels.unique():
                shares = torch.distributions.Dirichlet(torch.full((clients,), self.dirichlet)).sample()
                own = labels == label
                owners[own] = torch.multinomial(shares, int(own.sum()), replacement=True)
        return [(owners == client).nonzero()[:, 0] for client in owners.unique()]

    def train(self, model: Linearised, weights: Tensor, clients: Sequence[Examples]) -> Tensor:
        """The weights that `rounds` of federated averaging of the linear model make of these, `(weights,)`.

        All clients take their steps at once. They take equally many, as many as the largest has full batches; smaller
        clients go through their images again meanwhile.
        """
        images, targets = _together(clients)
        sizes = [len(client.images) for client in clients]
        batch = min(self.batch_size, max(sizes))
        needed = max(sizes) // batch * batch
        shares = torch.tensor(sizes).to(model.origin) / sum(sizes)
        for _ in range(self.rounds):
            orders = [torch.randperm(size).repeat(needed // size + 1)[:needed] for size in sizes]
            rows = torch.stack([sum(sizes[:client]) + order for client, order in enumerate(orders)])
            local = nn.Parameter(weights.expand(len(clients), -1).clone())  # (clients, weights)
            optimizer = torch.optim.Adam([local], lr=self.learning_rate)
            for chosen in rows.to(images.device).split(batch, dim=1):  # (clients, batch)
                local.grad = vmap(model.gradient)(local.detach(), Examples(images[chosen], targets[chosen]))
                optimizer.step()
            weights = shares @ local.detach()
        return weights

    def salient(self, gradient: Tensor) -> Tensor:
        """1 for the share k of the weights with the largest gradients, 0 for the others: `(weights,)`."""
        mask = torch.zeros_like(gradient)
        mask[gradient.abs().topk(max(1, int(self.k * len(gradient)))).indices] = 1
        return mask

    def removal(self, multiply: Product, mask: Tensor, target: Tensor) -> tuple[Tensor, list[float]]:
        """The step v, `(weights,)`, and the residual after each step of the conjugate gradients, as a share of g."""

        def masked(vector: Tensor) -> Tensor:
            return mask * multiply(vector) + self.damping * vector

        solution, residual = torch.zeros_like(target), mask * target
        direction, size = residual, residual.dot(residual)
        start, shares = size, [1.0]
        for _ in range(self.iterations):
            if size <= self.tolerance**2 * start:
                break
            product = masked(direction)
            length = size / direction.dot(product)
            solution, residual = solution + length * direction, residual - length * product
            before, size = size, residual.dot(residual)
            direction = residual + size / before * direction
            shares.append(float((size / start).sqrt()))
        return solution, shares

    def repair(
        self, model: Linearised, weights: Tensor, mask: Tensor, server: Examples, validation: Examples
    ) -> tuple[Tensor, list[float]]:
        """The weights of lowest validation loss of the linear model; that loss at the start and after each epoch."""
        local = nn.Parameter(weights.clone())
        optimizer = torch.optim.Adam([local], lr=self.repair_learning_rate)
        losses = [model.mean_loss(weights, validation)] if self.repair_epochs else []
        for _ in range(self.repair_epochs):
            for rows in torch.randperm(len(server.images)).split(self.batch_size):
                local.grad = mask * model.gradient(local.detach(), _take(server, rows))
                optimizer.step()
            losses.append(model.mean_loss(local.detach(), validation))
            if not losses[-1] < losses[-2]:
                break
            weights = local.detach().clone()
        return weights, losses

    def paper_bound(self, curvature: Product, of_staying: Product, target: Tensor, left_over: Tensor) -> float:
        """`distance_bound_paper` without noise and repair: g is the `target`, H v - g is `left_over`.

        `of_staying` is the curvature for the images of the clients that stay.
        """
        vector, norm = torch.randn_like(target), 0.0
        for _ in range(self.norm_iterations):
            vector = vector / vector.norm()
            difference = curvature(vector) - of_staying(vector)
            vector = difference + (self.damping - self.weight_decay) * vector
            norm = float(vector.norm())
        suboptimality = float(left_over.norm()) ** 2 / (2 * self.damping)
        away = float(target.norm()) / self.weight_decay
        return distance_bound(self.damping, suboptimality, norm / self.damping, away)


class Linearised:
    """A network's first-order expansion f(x; w0) + J(x) (w - w0), and its loss, as functions of the flat weights w."""

    def __init__(self, net: nn.Module, loss: str, weight_decay: float) -> None:
        self.net, self.loss, self.weight_decay = net, loss, weight_decay
        self.origin = parameters_to_vector(net.parameters()).detach().clone()
        self.shapes = {name: weight.shape for name, weight in net.named_parameters()}

    def network(self, weights: Tensor, images: Tensor) -> Tensor:
        """The network itself, with other weights: `(n, classes)`."""
        parts = weights.split([shape.numel() for shape in self.shapes.values()])
        named = {name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}
        logits: Tensor = functional_call(self.net, named, (images,))
        return logits

    def logits(self, weights: Tensor, images: Tensor) -> Tensor:
        """The outputs of the linear model, `(n, classes)`."""
        expansion = jvp(lambda w: self.network(w, images), (self.origin,), (weights - self.origin,))
        outputs: Tensor = expansion[0] + expansion[1]
        return outputs

    def total_loss(self, weights: Tensor, images: Tensor, targets: Tensor) -> Tensor:
        """The sum over images of the loss, without weight decay."""
        outputs = self.logits(weights, images)
        if self.loss == "mse":
            return (outputs - targets).square().sum() / 2
        return -(targets * F.log_softmax(outputs, dim=1)).sum()

    def gradient(self, weights: Tensor, examples: Examples) -> Tensor:
        """Of the mean loss with its weight decay, by the weights."""
        parts = zip(examples.images.split(BATCH), examples.targets.split(BATCH), strict=True)
        gradients = torch.stack([grad(self.total_loss)(weights, images, targets) for images, targets in parts])
        return gradients.sum(dim=0) / examples.images.shape[0] + self.weight_decay * weights

    def average_gradient(self, weights: Tensor, clients: Sequence[Examples]) -> Tensor:
        """The average of the clients' gradients, by their sizes: the gradient of the mean over all their images."""
        return self.gradient(weights, _together(clients))

    @torch.no_grad()
    def mean_loss(self, weights: Tensor, examples: Examples) -> float:
        """The mean loss, without weight decay."""
        parts = zip(examples.images.split(BATCH), examples.targets.split(BATCH), strict=True)
        return sum(float(self.total_loss(weights, *part)) for part in parts) / len(examples.images)

    def push(self, vector: Tensor, images: Tensor) -> Tensor:
        """J(x) times the vector, for each image: `(n, classes)`."""
        change: Tensor = jvp(lambda w: self.network(w, images), (self.origin,), (vector,))[1]
        return change

    def pull(self, slopes: Tensor, images: Tensor) -> Tensor:
        """The sum over images of J(x)^T times a row of `slopes`, `(n, classes)`: `(weights,)`."""
        total: Tensor = vjp(lambda w: self.network(w, images), self.origin)[1](slopes)[0]
        return total

    def curvature(self, weights: Tensor, images: Tensor, dense_numbers: int) -> Product:
        """The product of the mean of J^T A J over the images with a vector; for mse, A does not depend on the weights.

        J is kept if it has at most `dense_numbers` numbers.
        """
        with torch.no_grad():
            outputs = torch.cat([self.logits(weights, part) for part in images.split(BATCH)])  # (n, classes)
        probabilities = F.softmax(outputs, dim=1)

        def bend(changes: Tensor, p: Tensor) -> Tensor:
            """A times the changes of the outputs: A is 1 for mse, diag(p) - p p^T for the cross-entropy."""
            return changes if self.loss == "mse" else p * (changes - (p * changes).sum(dim=1, keepdim=True))

        if outputs.numel() * len(weights) <= dense_numbers:
            rows = vmap(jacrev(lambda w, image: self.network(w, image[None])[0]), in_dims=(None, 0))(
                self.origin, images
            )
            jacobian = rows.flatten(0, 1)  # (n * classes, weights)
            return lambda v: bend((jacobian @ v).view_as(outputs), probabilities).flatten() @ jacobian / len(images)

        def multiply(vector: Tensor) -> Tensor:
            parts = zip(images.split(BATCH), probabilities.split(BATCH), strict=True)
            products = [self.pull(bend(self.push(vector, part), p), part) for part, p in parts]
            return torch.stack(products).sum(dim=0) / len(images)

        return multiply

    @torch.no_grad()
    def gap(self, weights: Tensor, images: Tensor) -> float:
        """Root mean square over images and classes of the network's outputs minus those of the linear model."""
        parts = [self.network(weights, part) - self.logits(weights, part) for part in images.split(BATCH)]
        return float(torch.cat(parts).double().square().mean().sqrt())


def distance_bound(damping: float, suboptimality: float, kappa: float, away: float, retraining: float = 0.0) -> float:
    """Most that the result of an inexact removal is away from the weights that a retraining ends at.

    sqrt(6 / damping Q + 3 kappa^2 away^2 + 3 retraining), with Q the `suboptimality` of the solution v in
    v^T H v / 2 - g^T v, `away` the distance of the weights before the removal from the minimum u of the retained
    loss, and `retraining` the squared distance from u at which the retraining ends. (For away^2 the paper has its upper
    bound 2 (squared error of the training + squared distance of u from the minimum of all clients' loss).)
    """
    return math.sqrt(6 / damping * suboptimality + 3 * (kappa * away) ** 2 + 3 * retraining)


def _examples(net: nn.Module, loader: Loader) -> tuple[Examples, list[str]]:
    """All of a loader, in its order, and their ids."""
    device = next(net.parameters()).device
    batches: list[dict[str, Any]] = list(loader)
    images = torch.cat([sample["image"].to(device) for sample in batches])
    labels = torch.cat([sample["age_group"].to(device) for sample in batches])
    with torch.no_grad():
        classes = net(images[:1]).shape[1]
    ids = [str(image_id) for sample in batches for image_id in sample["image_id"]]
    return Examples(images, F.one_hot(labels, classes).to(images.dtype)), ids


def _named(ids: Sequence[str], rows: Tensor) -> list[str]:
    return [ids[row] for row in rows.tolist()]


def _take(examples: Examples, rows: Tensor) -> Examples:
    return Examples(*(part[rows.to(part.device)] for part in examples))


def _together(clients: Sequence[Examples]) -> Examples:
    """What all of them own."""
    return Examples(*(torch.cat(parts) for parts in zip(*clients, strict=True)))


def _counts(examples: Examples) -> list[int]:
    """Images of each class."""
    counts: list[int] = examples.targets.sum(dim=0).int().tolist()
    return counts
