"""What the formulas say, before anything is trained. Partners of the same names in `measure` (one in notebook 08).

m, n: users, items     d: factors     N: ratings     B: batch size     s1: the largest singular value
"""

import copy
import math
import weakref
from collections.abc import Callable

import numpy as np
import scipy.sparse as sp
import torch
from scipy.sparse.linalg import lsmr, svds
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mfkit.data import Ratings


def prediction_std(n_factors: int, user_std: float, item_std: float) -> float:
    """Std of u . v for entries of mean 0 and these stds: sqrt(d) sU sV, in rating units.

    A sum of d independent products, each of variance sU^2 sV^2.
    """
    return math.sqrt(n_factors) * user_std * item_std


def top_mode(ratings: Ratings, mean: float | None = None) -> tuple[float, Tensor]:
    """(s1, p_i q_j of each rating): the top singular triplet of R less `mean` (default: theirs), 0 where unobserved."""
    i, j = ratings.users.cpu().numpy(), ratings.items.cpu().numpy()
    values = ratings.values.cpu().double().numpy() - (ratings.mean if mean is None else mean)
    p, s1, q = _top_triplet(sp.csr_array((values, (i, j)), shape=(ratings.n_users, ratings.n_items)))
    return s1, torch.from_numpy(p[i] * q[j])


def escape_time(
    ratings: Ratings, n_factors: int, user_std: float, item_std: float, lr: float, *, mean: float | None = None
) -> float:
    """Steps of SGD ("mean", no l2, no biases) until the ratings' top mode is half learnt from N(0, sU^2), N(0, sV^2).

        [ ln(s1 / (w x0)) ]+ / (2 ln(1 + 2 lr s1 / N)),     ln x0 = ln((sU^2 + sV^2) / 2) + digamma(d / 2)

    s1, p, q: top singular triplet of the ratings less `mean` (default: theirs); w = their sum of p_i^2 q_j^2, 1 where
    all cells are observed. Near zero (U'p + V'q)/2 grows by 1 + 2 lr s1 / N a step, from E ln|.|^2 = ln x0; then its
    square x is logistic, x' ~ x (s1 - w x). Infinite from two zero tables, or where s1 = 0.
    """
    s1, weights = top_mode(ratings, mean)
    if not (s1 and max(user_std, item_std)):
        return math.inf
    x0 = (user_std**2 + item_std**2) / 2 * torch.tensor(n_factors / 2, dtype=torch.float64).digamma().exp().item()
    pace = 2 * math.log1p(2 * lr * s1 / len(ratings))
    return max(0.0, math.log(s1 / (weights.square().sum().item() * x0)) / pace)


def collapse_l2(ratings: Ratings, penalty: str = "per_rating", residual: bool = False) -> float:
    """The l2 from which on U V' = 0 is the global optimum under MSE, whatever n_factors >= 1, init and optimizer.

        per_rating: s1(D_u^-1/2 R D_i^-1/2)       per_table: s1(R) / N       D_u, D_i: ratings a user, an item

    R: (m, n), zero where nothing was observed. Minimised over U and V, l2 (||U||^2 + ||V||^2) is 2 l2 ||U V'||_*
    (Srebro, Rennie & Jaakkola 2004), and zero is optimal where the loss's gradient at zero has no singular
    value above 2 l2; per_rating weighs the rows by their counts, which moves into R.
    residual=False: a model without mean and biases. residual=True: one with mean=ratings.mean and biases, so of
    R minus both. The biases are the optimum without factors: per_table leaves them free (least squares), per_rating
    penalises them too, with the very l2 that is asked for: a fixed point.
    In rating units (per_rating), or those over sqrt(N) (per_table). Below it, zero is a saddle. Raises ValueError.
    """
    if penalty not in ("per_rating", "per_table"):
        raise ValueError(f"penalty must be 'per_rating' or 'per_table', got {penalty!r}")
    if not residual:
        return top_singular_value(ratings, ratings.values.cpu().double().numpy(), penalty)
    l2, before = 0.0, -1.0
    for _ in range(100 if penalty == "per_rating" else 1):
        if abs(l2 - before) > 1e-9 * l2:
            before, l2 = l2, top_singular_value(ratings, bias_residual(ratings, l2), penalty)
    return l2


def top_singular_value(ratings: Ratings, values: np.ndarray, penalty: str) -> float:
    """s1 of the observed `values` (N,), scaled as the penalty asks; the start vector is fixed, so it is repeatable."""
    users, items = ratings.users.cpu().numpy(), ratings.items.cpu().numpy()
    by_count = penalty == "per_rating"
    scale = (np.bincount(users)[users] * np.bincount(items)[items]) ** -0.5 if by_count else 1 / len(values)
    matrix = sp.csr_array((values * scale, (users, items)), shape=(ratings.n_users, ratings.n_items))
    return _top_triplet(matrix)[1]


def _top_triplet(matrix: sp.csr_array) -> tuple[np.ndarray, float, np.ndarray]:
    if min(matrix.shape) < 3 or not matrix.data.any():  # too small for ARPACK, or nothing to find
        P, s, Q = np.linalg.svd(matrix.toarray())
    else:
        P, s, Q = svds(matrix, k=1, v0=np.random.default_rng(0).standard_normal(min(matrix.shape)), tol=1e-12)
    return P[:, 0], float(s[0]), Q[0]


def bias_residual(ratings: Ratings, l2: float) -> np.ndarray:
    """What mean and biases leave over, (N,): biases that minimise the sum of e^2 + l2 (b_i^2 + c_j^2)."""
    users, items = ratings.users.cpu().numpy(), ratings.items.cpu().numpy() + ratings.n_users
    columns = np.stack([users, items], axis=1).ravel()
    scale = np.bincount(columns)[columns] ** -0.5  # unit columns: a well-conditioned problem
    rows = np.arange(0, len(columns) + 1, 2)
    design = sp.csr_array((scale, columns, rows), shape=(len(ratings), ratings.n_users + ratings.n_items))
    values = ratings.values.cpu().double().numpy() - ratings.mean
    return values - design @ lsmr(design, values, damp=math.sqrt(l2), atol=1e-12, btol=1e-12, maxiter=10_000)[0]


def sharpness(
    ratings: Ratings, n_factors: int, scale: float, batch_size=None, reduction="mean", *, mean=None, biases=False
) -> float:
    """The top curvature that SGD on squared errors meets from N(0, scale^2) factors: 2K / B ("mean") or 2K ("sum").

        K = scale^2 (d + 2 + c) + 2 s1         with biases sqrt(K^2 + (1 + c)^2)

    c: hits of the most frequent item or user in a batch, on average. First term: mean-square stability of that row,
    a linear regression on c Gaussian d-vectors a batch. s1: top singular value of a batch's ratings minus `mean`
    (default: theirs; what the model adds as a constant); 4 s1 / B is the curvature of the balanced solution that a
    small start reaches, exact for a whole matrix in one batch (B = N, scale -> 0), here a rule checked by
    measurement. batch_size=None: all ratings. The sum bounds the two phases (Weyl); s1 is the mean of 4 seeded batches.
    1 + c is a bias's own curvature, a direction that partly overlaps: larger than either, smaller than the sum.
    Raises ValueError for a size, scale or reduction that cannot be.
    """
    size = len(ratings) if batch_size is None else min(batch_size, len(ratings))
    if not (n_factors >= 1 and size >= 1 and scale >= 0 and math.isfinite(scale)):
        given = f"{n_factors}, {batch_size} and {scale}"
        raise ValueError(f"n_factors and batch_size must be at least 1, scale finite and at least 0, got {given}")
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction must be 'mean' or 'sum', got {reduction!r}")
    users, items = ratings.users.cpu().numpy(), ratings.items.cpu().numpy()
    values = ratings.values.cpu().double().numpy() - (ratings.mean if mean is None else mean)
    hits = size * max(np.bincount(users).max(), np.bincount(items).max()) / len(ratings)
    rng, s1 = np.random.default_rng(0), []
    for _ in range(4 if size < len(ratings) else 1):
        batch = rng.permutation(len(ratings))[:size]
        drawn = ratings.take(batch)
        s1.append(size * top_singular_value(drawn, values[batch], "per_table"))
    curvature = math.hypot(scale**2 * (n_factors + 2 + hits) + 2 * float(np.mean(s1)), (1 + hits) * biases)
    return 2 * curvature / (size if reduction == "mean" else 1)


def max_stable_lr(
    ratings: Ratings, n_factors: int, scale: float, batch_size=None, reduction="mean", *, mean=None, biases=False
) -> float:
    """The learning rate beyond which SGD explodes: 2 / sharpness, with its arguments; infinite where that is 0.

    B / (scale^2 (d + 2 + c) + 2 s1) under "mean". Not for Adam, whose steps are bounded whatever the curvature.
    """
    top = sharpness(ratings, n_factors, scale, batch_size, reduction, mean=mean, biases=biases)
    return 2 / top if top else math.inf


def huber_efficiency(k: float) -> float:
    """Variance of least squares over that of Huber's estimate, under Gaussian noise of std 1 (Huber 1964, section 6).

        (2P - 1)^2 / [(2P - 1) - 2 k p + 2 k^2 (1 - P)]         P, p: the normal cdf and pdf at k

    k: delta in units of the noise's std. 0.95 at 1.345; 2 / pi, the median's, toward 0; 1 toward infinity.
    For a regression with few coefficients against its observations: one row of factors, the others fixed, no
    penalty. Raises ValueError for a k that is not positive.
    """
    if not k > 0:
        raise ValueError(f"k must be positive, got {k}")
    if k == math.inf:
        return 1.0
    outside, p = math.erfc(k / math.sqrt(2)), math.exp(-k * k / 2) / math.sqrt(2 * math.pi)  # outside = 2 (1 - P)
    return (1 - outside) ** 2 / (1 - outside - 2 * k * p + k * k * outside)


def state_bytes(model: nn.Module, optimizer: str = "adam") -> dict[str, int]:
    """Bytes of parameters, gradients (dense) and optimizer state that stay for the whole training.

    With P trained numbers of 4 bytes: 4P each for parameters and gradients; 8P for "adam" and "adamw", 4P for
    "momentum", 0 for "sgd". Adam also keeps a step count, 4 bytes a tensor. Whatever the batch size is.
    Raises ValueError for another optimizer.
    """
    copies = {"sgd": (0, 0), "momentum": (1, 0), "adam": (2, 4), "adamw": (2, 4)}
    if optimizer not in copies:
        raise ValueError(f"optimizer must be one of {', '.join(map(repr, copies))}, got {optimizer!r}")
    tables, counter = copies[optimizer]
    trained = [p.nbytes for p in model.parameters() if p.requires_grad]
    state = tables * sum(trained) + counter * len(trained)
    return {"parameters": sum(p.nbytes for p in model.parameters()), "gradients": sum(trained), "state": state}


def peak_bytes(function: Callable[[], object]) -> int:
    """Most bytes alive at once among the tensors that `function()` makes, summed operation by operation.

    Needs no memory where its tensors are on torch.device("meta"): a size far beyond the machine can be asked for;
    `dry_step` makes such a function of any model. Buffers inside one kernel are not seen (mse_loss's backward:
    12 bytes a rating; an indexed dense product is counted twice).
    """
    with _Ledger() as ledger:
        function()
    return ledger.peak


def dry_step(model: nn.Module, batch_size: int, loss: Callable[[Tensor, Tensor], Tensor] | None = None) -> Callable:
    """Forward and backward of one batch as a function for `peak_bytes`, on stand-ins that hold no memory.

    model: any module that maps (users, items), (B,) int64 each, to (B,), and looks at no value of theirs.
    loss: (B,), (B,) -> 0-d tensor; the mean squared error where it is None.
    """
    stand_ins = {id(p): nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad) for p in model.parameters()}
    stand_ins |= {id(b): torch.empty_like(b, device="meta") for b in model.buffers()}
    model = copy.deepcopy(model, stand_ins)
    users, items = torch.empty(2, batch_size, dtype=torch.int64, device="meta")
    values = torch.empty(batch_size, device="meta")
    loss = loss or (lambda prediction, target: (prediction - target).square().mean())
    return lambda: loss(model(users, items), values).backward()


class _Ledger(TorchDispatchMode):
    """Adds a storage when an operation returns it for the first time, and takes it off when nothing holds it."""

    def __init__(self):
        super().__init__()
        self.now, self.peak, self.known = 0, 0, set()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self._enter((args, kwargs), new=False)
        result = operation(*args, **(kwargs or {}))
        self._enter(result, new=True)
        return result

    def _enter(self, tree, new: bool) -> None:
        for tensor in tree_leaves(tree):
            if not isinstance(tensor, Tensor):
                continue
            for part in (tensor._indices(), tensor._values()) if tensor.is_sparse else (tensor,):
                storage = part.untyped_storage()
                if id(storage) not in self.known:
                    size = storage.nbytes() if new else 0
                    self.known.add(id(storage))
                    self.now += size
                    weakref.finalize(storage, self._leave, id(storage), size)
        self.peak = max(self.peak, self.now)

    def _leave(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size
