"""Row-wise optimizers against torch's dense ones, which do the same work on every row."""

import pytest
import torch
from torch import nn

from mfkit.optimizers import RowAdam, RowSGD

ROWS, COLUMNS, STEPS = 12, 3, 40


def batches(everything=False, rows=ROWS):
    """(ids, targets) of each step; ids repeat within a batch, and some rows rest for many steps."""
    generator = torch.Generator().manual_seed(0)
    for step in range(STEPS):
        ids = torch.randint(0, 4 + step % (rows - 3), (6,), generator=generator)
        if everything:
            ids = torch.cat([torch.arange(rows), ids])
        yield ids, torch.randn(len(ids), COLUMNS, generator=generator, dtype=torch.float64)


def table(sparse):
    embedding = nn.Embedding(ROWS, COLUMNS, sparse=sparse, dtype=torch.float64)
    with torch.no_grad():
        embedding.weight.copy_(torch.linspace(-1, 1, ROWS * COLUMNS, dtype=torch.float64).reshape(ROWS, COLUMNS))
    return embedding


def run(model, optimizer, steps):
    losses = []
    for ids, target in steps:
        optimizer.zero_grad()
        loss = (model(ids) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
@pytest.mark.parametrize("sparse", [True, False])
def test_row_adam_is_adamw_where_every_row_is_in_every_batch(weight_decay, sparse):
    dense, rows = table(False), table(sparse)
    reference = torch.optim.AdamW(dense.parameters(), lr=0.05, weight_decay=weight_decay)
    run(dense, reference, batches(everything=True))
    run(rows, RowAdam(rows.parameters(), lr=0.05, weight_decay=weight_decay), batches(everything=True))
    torch.testing.assert_close(rows.weight, dense.weight, rtol=1e-9, atol=1e-12)


def test_row_adam_first_step_is_lr_whenever_it_comes():
    for late in (1, 11, 10_001):
        model = table(True)
        optimizer = RowAdam(model.parameters(), lr=0.01)
        model(torch.tensor([0])).sum().backward()
        optimizer.step()
        optimizer.state[model.weight]["step"] = late - 1
        before = model.weight[5].clone()
        optimizer.zero_grad()
        model(torch.tensor([5])).sum().backward()
        optimizer.step()
        torch.testing.assert_close(before - model.weight[5], torch.full_like(before, 0.01), rtol=1e-6, atol=0)


def test_row_adam_decays_untouched_rows_as_adamw_does():
    model = table(True)
    start = model.weight[11].clone()
    optimizer = RowAdam(model.parameters(), lr=0.1, weight_decay=0.2).watch(model)
    run(model, optimizer, [(torch.tensor([0, 1]), torch.zeros(2, COLUMNS, dtype=torch.float64))] * 30)
    torch.testing.assert_close(model.weight[11], start)  # nobody has looked yet
    torch.testing.assert_close(model(torch.tensor([11]))[0], start * (1 - 0.1 * 0.2) ** 30)
    optimizer.unwatch()
    torch.testing.assert_close(model.weight[11], start * (1 - 0.1 * 0.2) ** 30)


def test_permuted_rows_give_permuted_results():
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(1))
    plain, permuted = table(True), table(True)
    with torch.no_grad():
        permuted.weight[order] = plain.weight.clone()
    for make in (lambda p: RowAdam(p, weight_decay=0.1), lambda p: RowSGD(p, momentum=0.9, weight_decay=0.1)):
        first, second = make(plain.parameters()).watch(plain), make(permuted.parameters()).watch(permuted)
        run(plain, first, batches())
        run(permuted, second, ((order[ids], target) for ids, target in batches()))
        first.unwatch()
        second.unwatch()
        torch.testing.assert_close(permuted.weight[order], plain.weight, rtol=1e-12, atol=0)


@pytest.mark.parametrize("weight_decay", [0.0, 0.2])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_row_sgd_is_dense_sgd(momentum, weight_decay):
    dense, rows = table(False), table(True)
    settings = dict(lr=0.1, momentum=momentum, weight_decay=weight_decay)
    ours = RowSGD(rows.parameters(), **settings).watch(rows)
    losses = run(dense, torch.optim.SGD(dense.parameters(), **settings), batches())
    assert run(rows, ours, batches()) == pytest.approx(losses, rel=1e-9)  # each forward pass read the right rows
    ours.unwatch()
    torch.testing.assert_close(rows.weight, dense.weight, rtol=1e-9, atol=1e-12)
    rows(torch.arange(3))
    assert not ours._hooks


def test_momentum_does_not_leak():
    rows, leaking = table(True), table(True)
    ours = RowSGD(rows.parameters(), momentum=0.9)
    torchs = torch.optim.SGD(leaking.parameters(), lr=0.01, momentum=0.9)
    run(rows, ours, list(batches()) * 30)
    run(leaking, torchs, list(batches()) * 30)
    assert ours.state[rows.weight]["velocity"].numel() == rows.weight.numel()
    assert torchs.state[leaking.weight]["momentum_buffer"]._nnz() > 5 * ROWS  # when this fails, torch has mended it


@pytest.mark.parametrize("make", [lambda p: RowAdam(p, weight_decay=0.1), lambda p: RowSGD(p, momentum=0.9)])
def test_state_survives_saving(make, tmp_path):
    whole, halves = table(True), table(True)
    steps = list(batches())
    optimizer = make(whole.parameters()).watch(whole)
    run(whole, optimizer, steps[:20])
    optimizer.flush()
    run(whole, optimizer, steps[20:])
    optimizer.unwatch()
    first = make(halves.parameters()).watch(halves)
    run(halves, first, steps[:20])
    first.unwatch()
    torch.save({"model": halves.state_dict(), "optimizer": first.state_dict()}, tmp_path / "state")
    state = torch.load(tmp_path / "state", weights_only=True)
    resumed = table(True)
    second = make(resumed.parameters()).watch(resumed)
    resumed.load_state_dict(state["model"])
    second.load_state_dict(state["optimizer"])
    run(resumed, second, steps[20:])
    second.unwatch()
    assert torch.equal(resumed.weight, whole.weight)


def test_a_scalar_and_a_dense_layer_train_beside_the_tables():
    model = nn.ModuleList([table(True), nn.Linear(COLUMNS, 1, dtype=torch.float64)])
    model.mean = nn.Parameter(torch.tensor(0.0, dtype=torch.float64))
    optimizer = RowAdam(model.parameters())
    (model[1](model[0](torch.tensor([1, 1]))).sum() + model.mean).backward()
    optimizer.step()
    assert model.mean.item() == pytest.approx(-0.01, rel=1e-6)


@pytest.mark.parametrize("wrong", [dict(lr=0.0), dict(lr=-1.0), dict(betas=(0.9, 1.0)), dict(weight_decay=-0.1)])
def test_wrong_settings_are_named(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be"):
        RowAdam([nn.Parameter(torch.zeros(2, 2))], **wrong)
