"""Optimizers whose step costs what the batch's rows cost, not what the tables cost.

A batch of B ratings reads at most B rows of a table, and a sparse gradient lists only those. torch's SGD keeps that
sparsity but leaks memory with momentum, its Adam refuses sparse gradients, and its SparseAdam corrects every row's
bias by the number of steps that *all* rows have taken (pytorch#3137) and knows no weight decay.

What a dense optimizer does to a row that no batch reads follows a closed form, so it can wait until somebody looks:
`catch_up` does it for the rows that the model is about to read, `flush` for all of them.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from mfkit import checks
from mfkit.checks import instance, listed, number, shown, tensor


class RowOptimizer(torch.optim.Optimizer):
    """Steps for the rows of the batch now, and for the other rows when they are read.

    params: tables of any shape (rows, ...); a dense gradient touches every row. The state of each holds `step`, the
    number of its steps, and `seen`, (rows,) int64: the step up to which each row has been brought. Raises ValueError
    for settings out of range, TypeError for params of another kind.
    """

    def __init__(self, params, **settings):
        super().__init__(_params(params), {name: _setting(name, value) for name, value in settings.items()})
        self._hooks = []

    def watch(self, model: nn.Module) -> "RowOptimizer":
        """Catch up the rows that the model's nn.Embedding tables are about to read, from now until `unwatch`."""

        def before_reading(table: nn.Embedding, ids: tuple[Tensor, ...]) -> None:
            for group in self.param_groups:
                if any(table.weight is p for p in group["params"]):
                    self.catch_up(table.weight, group, ids[0].reshape(-1))

        for table in instance("model", model, nn.Module).modules():
            if isinstance(table, nn.Embedding):
                self._hooks.append(table.register_forward_pre_hook(before_reading))
        return self

    def __enter__(self) -> "RowOptimizer":
        return self  # `with optimizer.watch(model):` ends with unwatch

    def __exit__(self, *_) -> None:
        self.unwatch()

    def unwatch(self) -> None:
        """Flush, and stop watching."""
        self.flush()
        while self._hooks:
            self._hooks.pop().remove()

    def _start(self, table: Tensor, state: dict, group: dict) -> None:
        """State of a table that meets its first gradient."""
        raise NotImplementedError

    def _pass_by(self, table: Tensor, state: dict, group: dict, rows: Tensor, missed: Tensor) -> None:
        """What `missed` steps without a gradient, (K,), do to these rows, (K,)."""
        raise NotImplementedError

    def _update(self, table: Tensor, state: dict, group: dict, rows: Tensor, grad: Tensor) -> None:
        """One step of these rows, (K,), with these gradients, (K, ...)."""
        raise NotImplementedError

    def load_state_dict(self, state_dict: dict) -> None:
        super().load_state_dict(state_dict)  # which casts counts to the parameter's dtype
        params = [p for group in self.param_groups for p in group["params"]]
        for index, saved in state_dict["state"].items():
            for name, value in saved.items():
                if isinstance(value, Tensor) and not value.is_floating_point():
                    self.state[params[index]][name] = value.to(params[index].device, copy=True)

    def flush(self) -> None:
        """Bring every row up to now: before a table is read as a whole or saved, and before lr changes."""
        for group in self.param_groups:
            for p in group["params"]:
                self.catch_up(p, group, torch.arange(p.shape[0] if p.ndim else 1, device=p.device))

    @torch.no_grad()
    def catch_up(self, p: Tensor, group: dict, rows: Tensor) -> None:
        """Bring these rows, (K,) int64, repeats allowed, up to the last step."""
        if not (state := self.state[p]):
            return
        missed = state["step"] - state["seen"][rows]
        self._pass_by(torch.atleast_1d(p.data), state, group, rows, missed)
        state["seen"][rows] = state["step"]

    @torch.no_grad()
    def step(self, closure=None):
        """One update of the rows that have gradients; the others wait. `closure` as in torch."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            for p in (p for p in group["params"] if p.grad is not None):
                table, grad = torch.atleast_1d(p.data), torch.atleast_1d(p.grad)
                if grad.is_sparse:
                    grad = grad.coalesce()
                    rows, grad = grad.indices()[0], grad.values()
                else:
                    rows = torch.arange(len(table), device=p.device)
                if not (state := self.state[p]):
                    state |= {"step": 0, "seen": torch.zeros(len(table), dtype=torch.int64, device=p.device)}
                    self._start(table, state, group)
                self.catch_up(p, group, rows)
                self._update(table, state, group, rows, grad)
                state["step"] += 1
                state["seen"][rows] = state["step"]
        return loss


def _params(given: object) -> list[Any]:
    """What torch's optimizers take, but for its errors: tensors, named tensors or groups of them, in any iterable."""
    if isinstance(given, Tensor):
        raise TypeError(f"params must be a list of tensors, got a tensor of shape {tuple(given.shape)}")
    members = listed("params", given)
    if not members:
        raise ValueError("params must hold a tensor at least, got none")
    for each in members:
        is_group = isinstance(each, dict) and "params" in each
        is_named = isinstance(each, tuple) and len(each) == 2 and isinstance(each[1], Tensor)
        if not isinstance(each, Tensor) and not is_group and not is_named:
            raise TypeError(f"params must be tensors or groups with 'params', got {shown(each)} among them")
    return members


def _setting(name: str, value: object) -> float | tuple[float, float]:
    """A setting of a row-wise optimizer, checked: lr above 0, momentum and both betas below 1, none below 0."""
    if name == "betas":
        if not isinstance(value, tuple | list) or len(value) != 2:
            raise ValueError(f"betas must be two numbers, got {shown(value)}")
        first, second = (number("betas", beta, least=0, below=1) for beta in value)
        return first, second
    if name == "lr":
        return number("lr", value, above=0)
    return number(name, value, least=0, below=1 if name == "momentum" else None)


class RowAdam(RowOptimizer):
    """Adam (Kingma & Ba 2015, algorithm 1) in which each row counts its own steps.

    A row's first step moves it by lr, however late it comes. weight_decay is decoupled (Loshchilov & Hutter 2019,
    algorithm 2) and shrinks every row at every step. Where each batch touches every row, this is torch's AdamW.
    lr, betas, eps: as in torch; lr=0.01 is what suits ratings.
    """

    def __init__(self, params, lr=1e-2, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0):
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)

    def _start(self, table: Tensor, state: dict, group: dict) -> None:
        state["count"] = torch.zeros(len(table), dtype=torch.int64, device=table.device)
        state["mean"], state["square"] = torch.zeros_like(table), torch.zeros_like(table)

    def _pass_by(self, table: Tensor, state: dict, group: dict, rows: Tensor, missed: Tensor) -> None:
        if group["weight_decay"]:
            kept = (1 - group["lr"] * group["weight_decay"]) ** missed.double()
            table[rows] *= _column(kept, table)

    def _update(self, table: Tensor, state: dict, group: dict, rows: Tensor, grad: Tensor) -> None:
        beta1, beta2 = group["betas"]
        count = state["count"][rows] + 1
        mean = state["mean"][rows].lerp_(grad, 1 - beta1)
        square = state["square"][rows].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        state["count"][rows], state["mean"][rows], state["square"][rows] = count, mean, square
        first, second = (_column(1 - beta ** count.double(), table) for beta in (beta1, beta2))
        kept = table[rows] * (1 - group["lr"] * group["weight_decay"])
        table[rows] = kept - group["lr"] * (mean / first) / ((square / second).sqrt_() + group["eps"])


class RowSGD(RowOptimizer):
    """torch.optim.SGD with momentum and weight decay, row by row: the same parameters, up to rounding.

        velocity <- mu velocity + gradient + wd row,   row <- row - lr velocity

    Without a gradient that is linear: k steps that pass a row by are M^k on (row, velocity), with
    M = [[1 - lr wd, -lr mu], [wd, mu]]. The velocity is one dense table, however many steps are taken, and none
    without momentum; torch's is a sparse tensor that grows with every step.
    """

    def __init__(self, params, lr=1e-2, momentum=0.0, weight_decay=0.0):
        super().__init__(params, lr=lr, momentum=momentum, weight_decay=weight_decay)

    def _start(self, table: Tensor, state: dict, group: dict) -> None:
        if group["momentum"]:
            state["velocity"] = torch.zeros_like(table)

    def _pass_by(self, table: Tensor, state: dict, group: dict, rows: Tensor, missed: Tensor) -> None:
        lr, mu, decay = group["lr"], group["momentum"], group["weight_decay"]
        if not mu:
            table[rows] *= _column((1 - lr * decay) ** missed.double(), table)
            return
        square = torch.tensor([[1 - lr * decay, -lr * mu], [decay, mu]], dtype=torch.float64, device=table.device)
        power = torch.eye(2, dtype=torch.float64, device=table.device).expand(len(rows), 2, 2)
        for bit in range(int(missed.max()).bit_length() if len(rows) else 0):  # powers by repeated squaring
            power = torch.where((missed >> bit & 1).bool()[:, None, None], power @ square, power)
            square = square @ square
        row, velocity = table[rows], state["velocity"][rows]
        table[rows] = _column(power[:, 0, 0], table) * row + _column(power[:, 0, 1], table) * velocity
        state["velocity"][rows] = _column(power[:, 1, 0], table) * row + _column(power[:, 1, 1], table) * velocity

    def _update(self, table: Tensor, state: dict, group: dict, rows: Tensor, grad: Tensor) -> None:
        velocity = grad + group["weight_decay"] * table[rows]
        if group["momentum"]:
            velocity += group["momentum"] * state["velocity"][rows]
            state["velocity"][rows] = velocity
        table[rows] -= group["lr"] * velocity


def _column(per_row: Tensor, table: Tensor) -> Tensor:
    """(K,) as (K, 1, ...) in the table's dtype, to multiply its rows."""
    return per_row.reshape(-1, *[1] * (table.ndim - 1)).to(table.dtype)


OPTIMIZERS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
ROW_OPTIMIZERS = {"sgd": RowSGD, "adam": RowAdam, "adamw": RowAdam}  # for sparse gradients


@torch.no_grad()
def prox_l1_(tensors: Iterable[Tensor], thresholds: Iterable[Tensor | float]) -> None:
    """Move every entry toward zero by its threshold, and to exactly zero where that is farther: x <- S(x, t).

        S(x, t) = sign(x) max(|x| - t, 0) = argmin_z (z - x)^2 / 2 + t |z|                  (soft-thresholding)

    In place. After a gradient step of the loss alone with this lr it makes a proximal step of the whole objective
    (Parikh & Boyd 2014, 4.2 and 6.5.2); a subgradient step, lr l1 sign(x), steps over zero and never stays there.
    thresholds: one a tensor, broadcast to it: lr * l1 under "per_table"; under "per_rating" with a mean over B
    ratings lr * l1 * c / B, (rows, 1), where c counts the ratings that read the row.
    Raises ValueError below zero or for shapes that do not fit, TypeError for no numbers; then no tensor has moved.
    """
    moved = [tensor("tensors", x) for x in checks.tensors("tensors", tensors)]
    given = listed("thresholds", thresholds)
    if len(given) != len(moved):
        raise ValueError(f"tensors and thresholds must be as many, got {len(moved)} and {len(given)}")
    limits = [_threshold(t, x) for t, x in zip(given, moved, strict=True)]
    for x, t in zip(moved, limits, strict=True):
        x.sub_(x.clamp(-t, t))


def _threshold(given: object, x: Tensor) -> Tensor:
    """A threshold in x's dtype and on its device, of a shape that broadcasts to x's."""
    t = (
        given
        if isinstance(given, Tensor)
        else torch.tensor(number("thresholds", given, least=0, infinite=True), dtype=x.dtype)
    )
    t = tensor("thresholds", t).to(x)
    if not (t >= 0).all():
        raise ValueError(f"thresholds must be at least 0, got {t.min().item()}")
    fits = t.ndim <= x.ndim and all(size in (1, x.shape[-k]) for k, size in enumerate(reversed(t.shape), start=1))
    if not fits:
        raise ValueError(f"thresholds must broadcast to the tensor's shape {tuple(x.shape)}, got {tuple(t.shape)}")
    return t
