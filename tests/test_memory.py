"""Bytes: by hand, by rule, by dry run and by the allocator, which must agree."""

import gc

import pytest
import torch
from torch import nn

import mfkit
from mfkit import measure, predict
from tests.cells import from_notebook

run_limited = from_notebook("01_memory.ipynb", "run_limited")


def saved_bytes(function, parameters=()) -> int:
    """Bytes that autograd keeps alive for the backward pass of what `function()` computes.

    Distinct storages, each counted whole and once; those of `parameters` are not counted, the data's are.
    """
    own, kept = {id(p.untyped_storage()) for p in parameters}, {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[id(storage)] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        function()
    return sum(storage.nbytes() for key, storage in kept.items() if key not in own)


class Example(nn.Module):
    def __init__(self, n_users, n_items, n_factors):
        super().__init__()
        self.users, self.items = nn.Embedding(n_users, n_factors), nn.Embedding(n_items, n_factors)

    def forward(self, users, items):
        return (self.users(users) * self.items(items)).sum(1)


class Network(nn.Module):
    """Somebody's own model: a layer on top of the rows, one table frozen, a buffer."""

    def __init__(self):
        super().__init__()
        self.users, self.items = nn.Embedding(300, 8), nn.Embedding(200, 8)
        self.items.weight.requires_grad_(False)
        self.top = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 1))
        self.register_buffer("offset", torch.tensor(3.5))

    def forward(self, users, items):
        return self.top(torch.cat([self.users(users), self.items(items)], 1)).squeeze(-1) + self.offset


def batch(model_sizes, size):
    generator = torch.Generator().manual_seed(0)
    users, items = (torch.randint(rows, (size,), generator=generator) for rows in model_sizes)
    return users, items, torch.ones(size)


def step(model, users, items, values):
    return lambda: (model(users, items) - values).square().mean().backward()


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize(
    "make", [lambda: Example(300, 200, 8), lambda: mfkit.MatrixFactorization(300, 200, 8), Network]
)
def test_state_bytes_by_rule_and_as_they_are(make, name):
    model = make()
    optimizer = OPTIMIZERS[name]([p for p in model.parameters() if p.requires_grad])
    step(model, *batch((300, 200), 50))()
    optimizer.step()
    assert measure.state_bytes(model, optimizer) == predict.state_bytes(model, name)


def test_state_bytes_by_hand():
    # 3 x 2 and 2 x 2 numbers of 4 bytes: 40; Adam keeps two copies and one 4-byte counter a table
    assert predict.state_bytes(Example(3, 2, 2)) == {"parameters": 40, "gradients": 40, "state": 88}
    with pytest.raises(ValueError, match=r"optimizer must be .*'adam' or 'adamw', got 'lbfgs'"):
        predict.state_bytes(Example(3, 2, 2), "lbfgs")


def test_sparse_gradients_count_their_indices_and_values():
    model = mfkit.MatrixFactorization(1000, 500, 4, biases=False, sparse=True)
    step(model, *batch((1000, 500), 10))()
    found = measure.state_bytes(model, torch.optim.SGD(model.parameters(), lr=0.1))
    assert found == {"parameters": 4 * 1500 * 4, "gradients": 2 * 10 * (8 + 4 * 4), "state": 0}


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_what_stays_does_not_know_the_batch(size):
    """16 bytes a number with Adam: the claim about the article's model, at any size."""
    model = Example(300, 200, 8)
    optimizer = torch.optim.Adam(model.parameters())
    step(model, *batch((300, 200), size))()
    optimizer.step()
    assert sum(measure.state_bytes(model, optimizer).values()) == 16 * 500 * 8 + 2 * 4  # two step counters


@pytest.mark.parametrize("shape", [(300, 100), (300, 200), (100, 300)])
def test_temporary_tables_of_adam(shape):
    """Two like the users', then two like the items' while one like the users' is still there; fused makes none."""
    m, n, d = *shape, 8
    peaks = []
    for fused in (False, True):
        model = Example(m, n, d)
        optimizer = torch.optim.Adam(model.parameters(), fused=fused)
        step(model, *batch(shape, 50))()
        optimizer.step()
        peaks.append(measure.peak_bytes(optimizer.step))
    assert peaks[0] == pytest.approx(4 * d * (m + max(m, 2 * n)), abs=100)
    assert peaks[1] < 100


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_saved_bytes(size):
    users, items, values = batch((300, 200), size)
    model, ours = Example(300, 200, 8), mfkit.MatrixFactorization(300, 200, 8, mean=3.5)
    saved = saved_bytes(lambda: nn.functional.mse_loss(model(users, items), values), model.parameters())
    assert saved == 8 * size * 8 + 24 * size
    saved = saved_bytes(lambda: mfkit.mse(ours(users, items), values).mean(), ours.parameters())
    assert saved == 8 * size * 8 + 20 * size + 4  # the scale


def test_saved_bytes_count_a_storage_once():
    x = torch.ones(100, requires_grad=True)
    y = torch.ones(100)
    assert saved_bytes(lambda: (x * y * y[:50].repeat(2) * y).sum()) == 800  # y once, the repeated half
    assert saved_bytes(lambda: (x * y) + (x * y[::1]), [x]) == 400
    assert saved_bytes(lambda: x * 2, [x]) == 0


def test_peak_bytes_by_hand():
    def work():
        a = torch.ones(1000)  # 4000 alive
        b = a + 1  # 8000
        del a  # 4000
        c = b * b  # 8000
        d = torch.ones(500, dtype=torch.float64)  # 12000
        del b, c, d
        return torch.ones(1500)  # 6000

    assert measure.peak_bytes(work) == predict.peak_bytes(work) == 12_000
    assert measure.peak_bytes(lambda: None) == predict.peak_bytes(lambda: None) == 0
    with pytest.raises(ValueError, match="device must be a cpu or cuda device, got 'meta'"):
        measure.peak_bytes(work, "meta")


def test_peak_bytes_books_only_the_function_and_stays_silent(capfd):
    assert gc.isenabled()
    before = torch.ones(10_000)

    def work(tensor=[before]):  # noqa: B006
        tensor.clear()
        torch.ones(100)

    assert measure.peak_bytes(work) <= 400
    with pytest.raises(ZeroDivisionError):
        measure.peak_bytes(lambda: 1 / 0)
    assert gc.isenabled()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("size", [1, 64, 5000])
@pytest.mark.parametrize(
    "make", [lambda: Example(300, 200, 32), lambda: mfkit.MatrixFactorization(300, 200, 32), Network]
)
def test_a_dry_step_needs_what_a_step_needs(make, size):
    model = make()
    dry = predict.peak_bytes(predict.dry_step(model, size))
    assert all(p.grad is None and p.device.type == "cpu" for p in model.parameters())
    assert dry == pytest.approx(measure.peak_bytes(step(model, *batch((300, 200), size))), rel=0.01)


def test_a_dry_step_of_any_size_needs_no_memory():
    with torch.device("meta"):
        model = Example(100_000_000, 1_000_000, 100)
    found = []
    cost = measure.peak_bytes(lambda: found.append(predict.peak_bytes(predict.dry_step(model, 1024))))
    assert cost < 10_000
    assert found[0] == pytest.approx(4 * 101_000_000 * 100, rel=0.01)  # the gradients of the tables


def test_full_product_needs_four_copies():
    m, n, d = 300, 200, 8
    model, dense, mask = Example(m, n, d), torch.zeros(m, n), torch.rand(m, n) < 0.1

    def loss():
        return (((model.users.weight @ model.items.weight.T - dense) * mask) ** 2).sum()

    assert saved_bytes(loss, model.parameters()) == 5 * m * n
    assert measure.peak_bytes(lambda: loss().backward()) == pytest.approx(16 * m * n, rel=0.01)


def test_loss_over_all_cells_needs_no_matrix():
    m, n = 300, 200
    model = Example(m, n, 8).double()
    U, V = model.users.weight, model.items.weight
    cells = torch.randperm(m * n, generator=torch.Generator().manual_seed(0))[:500]
    users, items, values = cells // n, cells % n, torch.ones(500, dtype=torch.float64)
    dense = torch.zeros(m, n, dtype=torch.float64)
    dense[users, items] = values

    def with_matrix():
        return ((dense - U @ V.T) ** 2).sum()

    def without_matrix():
        prediction = model(users, items)
        return ((values - prediction) ** 2 - prediction**2).sum() + ((U.T @ U) * (V.T @ V)).sum()

    torch.testing.assert_close(without_matrix(), with_matrix(), rtol=1e-12, atol=0)
    for one, other in zip(*(torch.autograd.grad(f(), (U, V)) for f in (with_matrix, without_matrix)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
    assert measure.peak_bytes(with_matrix) > 2 * measure.peak_bytes(without_matrix)


def test_top_k_peak_does_not_depend_on_the_users():
    def peak(n_users):
        model = mfkit.MatrixFactorization(n_users, 400, 8)
        parts = torch.arange(n_users).split(100)
        return measure.peak_bytes(lambda: [model.top_k(part, 5, chunk=50) and None for part in parts])

    assert peak(5000) == peak(200) == pytest.approx(8 * 50 * 400, rel=0.1)


CHILD = """
users, items = torch.nn.Embedding(10_000, 100), torch.nn.Embedding(5_000, 100)
ids = torch.arange(1024)
"""


def limited(code, extra_bytes):
    outcome, message = run_limited(CHILD + code, extra_bytes)
    if outcome == "skipped":
        pytest.skip(message)
    return outcome, message


def test_under_one_limit_the_product_dies_and_a_batch_lives():
    outcome, message = limited("(users.weight @ items.weight.T).sum().backward()", 150_000_000)
    assert outcome == "out of memory"
    assert "200000000 bytes" in message
    outcome = limited("(users(ids) * items(ids)).sum().backward()\nprint('a step', 'done')", 150_000_000)
    assert outcome == ("finished", "a step done")


def test_another_failure_is_no_memory_failure():
    outcome, message = limited("1 / 0", 150_000_000)
    assert (outcome, message) == ("failed", "ZeroDivisionError: division by zero")


def test_where_no_limit_can_be_set(monkeypatch):
    monkeypatch.setattr("sys.platform", "darwin")
    outcome, why = run_limited("", 1)
    assert outcome == "skipped"
    assert "Linux only" in why


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_product_dies_and_a_batch_lives():
    total = torch.cuda.get_device_properties(0).total_memory
    users, items = nn.Embedding(10_000, 100).cuda(), nn.Embedding(5_000, 100).cuda()
    ids = torch.arange(1024, device="cuda")
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 150e6) / total)
    try:
        with pytest.raises(torch.cuda.OutOfMemoryError):
            users.weight @ items.weight.T
        peak = measure.peak_bytes(lambda: (users(ids) * items(ids)).sum().backward(), "cuda")
        assert 16 * 1024 * 100 <= peak < 150e6
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
