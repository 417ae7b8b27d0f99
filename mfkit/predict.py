"""What the formulas say, before anything is trained. Partners of the same names in `measure` (two in 06 and 08).

m, n: users, items     d: factors     N: ratings     B: batch size     s1: the largest singular value
"""

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from numpy.typing import ArrayLike
from scipy.optimize import root_scalar
from scipy.sparse.linalg import lsmr, svds
from torch import Tensor, nn

from mfkit import checks
from mfkit.config import PENALTIES, REDUCTIONS
from mfkit.data import Ratings
from mfkit.ledger import dry_step as dry_step  # the same question, answered by counting instead of a formula
from mfkit.ledger import peak_bytes as peak_bytes
from mfkit.recipe import l2_for_noise

HUGE = 1e38  # about the largest rating that float32 can hold; its square fits into float64


def prediction_std(n_factors: int, user_std: float, item_std: float) -> float:
    """Std of u . v for entries of mean 0 and these stds: sqrt(d) sU sV, in rating units.

    A sum of d independent products, each of variance sU^2 sV^2.
    """
    n_factors = checks.integer("n_factors", n_factors, least=0)
    user_std = checks.number("user_std", user_std, least=0, below=HUGE)
    return math.sqrt(n_factors) * user_std * checks.number("item_std", item_std, least=0, below=HUGE)


def top_mode(ratings: Ratings, mean: float | None = None) -> tuple[float, Tensor]:
    """(s1, p_i q_j of each rating): the top singular triplet of R less `mean` (default: theirs), 0 where unobserved."""
    p, s1, q = _top_triplet(ratings, _centred(ratings, mean))
    return s1, torch.from_numpy(p[ratings.users.cpu().numpy()] * q[ratings.items.cpu().numpy()])


def escape_time(
    ratings: Ratings, n_factors: int, user_std: float, item_std: float, lr: float, *, mean: float | None = None
) -> float:
    """Steps of SGD ("mean", no l2, no biases) until the ratings' top mode is half learnt from N(0, sU^2), N(0, sV^2).

        [ ln(s1 / (w x0)) ]+ / (2 ln(1 + 2 lr s1 / N)),     ln x0 = ln((sU^2 + sV^2) / 2) + digamma(d / 2)

    s1, p, q: top singular triplet of the ratings less `mean` (default: theirs); w = their sum of p_i^2 q_j^2, 1 where
    all cells are observed. Near zero (U'p + V'q)/2 grows by 1 + 2 lr s1 / N a step, from E ln|.|^2 = ln x0; then its
    square x is logistic, x' ~ x (s1 - w x). Infinite from two zero tables, or where s1 = 0.
    """
    n_factors, lr = checks.integer("n_factors", n_factors, least=1), checks.number("lr", lr, above=0)
    user_std = checks.number("user_std", user_std, least=0, below=HUGE)
    item_std = checks.number("item_std", item_std, least=0, below=HUGE)
    s1, weights = top_mode(ratings, mean)
    if not (s1 and max(user_std, item_std)):
        return math.inf
    x0 = (user_std**2 + item_std**2) / 2 * torch.tensor(n_factors / 2, dtype=torch.float64).digamma().exp().item()
    pace = 2 * math.log1p(2 * lr * s1 / len(ratings))
    return max(0.0, math.log(s1 / (weights.square().sum().item() * x0)) / pace)


def collapse_l2(
    ratings: Ratings, penalty: str = "per_rating", residual: bool = False, *, scale: float | None = None
) -> float:
    """The l2 from which on U V' = 0 is the global optimum under MSE, whatever n_factors >= 1, init and optimizer.

        per_rating: s1(D_u^-1/2 R D_i^-1/2)       per_table: s1(R) / N       D_u, D_i: ratings a user, an item

    R: (m, n), zero where nothing was observed. Minimised over U and V, l2 (||U||^2 + ||V||^2) is 2 l2 ||U V'||_*
    (Srebro, Rennie & Jaakkola 2004), and zero is optimal where the loss's gradient at zero has no singular
    value above 2 l2; per_rating weighs the rows by their counts, which moves into R.
    residual=False: a model without mean and biases. residual=True: one with mean=ratings.mean and biases, so of
    R minus both. The biases are the optimum without factors: per_table leaves them free (least squares), per_rating
    penalises them too, with the very l2 that is asked for: the largest fixed point, to a relative 1e-9.
    scale: of that model, in rating units: what its biases are counted in, and so how strongly l2 holds them. None: the
        ratings' std; then collapse_l2(a r + b) = a collapse_l2(r). 1: the textbook's model, whose border is no
        multiple of anything. Of no effect where nothing holds biases: without residual, and per_table.
    In rating units (per_rating), or those over sqrt(N) (per_table), whatever the scale: a model whose scale is not 1
    is given this over its scale. Below it, zero is a saddle. Raises ValueError or TypeError for what does not fit.
    """
    checks.instance("ratings", ratings, Ratings)
    penalty, residual = checks.one_of("penalty", penalty, PENALTIES), checks.boolean("residual", residual)
    scale = (ratings.std or 1.0) if scale is None else checks.number("scale", scale, above=0)
    if not residual:
        return top_singular_value(ratings, _centred(ratings, 0.0), penalty)
    if penalty == "per_table":
        return top_singular_value(ratings, bias_residual(ratings, 0.0), penalty)

    def left_over(l2: float) -> float:
        return top_singular_value(ratings, bias_residual(ratings, l2 / scale), penalty)

    return _largest_fixed_point(left_over, top_singular_value(ratings, _centred(ratings), penalty))


def _largest_fixed_point(function: Callable[[float], float], guess: float) -> float:
    """The largest x with function(x) = x, for a function >= 0 that is bounded; 0 where there is none above 0.

    From above, as 0 is a fixed point too where biases alone can explain everything: down in growing steps until the
    function is above x, then Brent's method in between.
    """
    high = guess
    while (value := function(high)) > high:
        high *= 2
    smallest, step = 1e-12 * guess, 2.0
    while high > smallest:
        low = max(high - step * (high - value), high / 10)
        if (value_at_low := function(low)) >= low:
            tolerances = {"xtol": smallest, "rtol": 1e-11}
            return root_scalar(lambda x: function(x) - x, bracket=(low, high), method="brentq", **tolerances).root
        high, value, step = low, value_at_low, 2 * step
    return 0.0


def best_l2(ratings: Ratings, noise_std: float) -> float:
    """The per-rating l2 of `recipe.l2_for_noise`, where the formula stands: about half of the noise's edge.

    noise_std: the spread of the ratings around the best prediction, in rating units for a model with scale=1; over the
    scale for another. Condition: l2 is shared by factors and biases, fitted by least squares; counts are fairly even
    and the noise is the same everywhere. Then it was within 1.5 % of a grid's best on eight sets of ratings, while the
    best l2 differed sevenfold (benchmarks/defaults.json). `train` and `fit_als` without an l2 use it, with the noise
    that a pilot finds. Raises ValueError for a noise_std below 0 or not finite.
    """
    checks.instance("ratings", ratings, Ratings)
    return l2_for_noise(ratings, checks.number("noise_std", noise_std, least=0))


def l2_curve(
    n_users: int,
    n_items: int,
    n_ratings: int,
    n_factors: int,
    noise_std: float,
    modes: ArrayLike,
    bias_stds: tuple[float, float] = (0.0, 0.0),
) -> pd.DataFrame:
    """RMSE on new ratings over the per-rating l2 of a mean, biases and d factors, without training: one row an l2.

        y_k = sqrt((x_k^2 + t^2 a) (x_k^2 + t^2 b)) / x_k    or t w_k       what the ratings show of direction k
        c_k = (x_k^2 - t^4 a b / x_k^2) / y_k                or 0           the share of y_k that is not noise
        t^2 = noise^2 + sum_k [x_k^2 - 2 c_k (y_k - h)+ + (y_k - h)+^2] + what the biases miss
        l2  = h (1 - f),     f = sum_k (y_k - h)+ (y_k - c_k) / t^2 + (a + b) / (1 + h)

    a = n_users / N, b = n_items / N: one over the mean ratings a row. modes: x_k, the singular values of the true
    interaction over sqrt(n_users n_items), in rating units; where x_k^4 <= t^4 a b, a direction drowns. w: singular
    values of pure noise of variance 1 / N (one seeded draw of the whole table). h: the threshold; t: the RMSE on new
    ratings; f: freedom used up, so that t (1 - f) is the RMSE on the fitted ones. Biases: ridge regressions.
    Sources: singular values of signal and noise, Benaych-Georges & Nadakuditi 2012; missing cells as more noise
    (state evolution) for singular-value thresholding, Donoho, Gavish & Montanari 2013. Condition: many ratings a row,
    pairs drawn whatever their rating, counts fairly even. An l2 so weak that t has no fixed point is left out.
    Columns: l2, rmse, fitted_rmse, degree = sum_k (y_k - h)+ / (y_1 - h)+, NaN where nothing is left.
    Raises ValueError or TypeError for sizes, stds or modes that cannot be.
    """
    m, n = checks.integer("n_users", n_users, least=1), checks.integer("n_items", n_items, least=1)
    N, d = checks.integer("n_ratings", n_ratings, least=1), checks.integer("n_factors", n_factors, least=1)
    noise = checks.number("noise_std", noise_std, above=0)
    stds = [checks.number("bias_stds", std, least=0) for std in bias_stds]
    x = np.sort(checks.vector("modes", modes).double().numpy())[::-1]
    if len(x) > min(m, n) or (x <= 0).any():
        raise ValueError(f"modes must be at most {min(m, n)} numbers above 0, got {checks.shown(modes)}")
    a, b = m / N, n / N
    w = np.linalg.svd(np.random.default_rng(0).standard_normal((m, n)) / math.sqrt(N), compute_uv=False)
    rows, largest = [], 100 * math.sqrt(noise**2 + (x**2).sum() + sum(std**2 for std in stds))
    for share in np.geomspace(0.05, 1.3, 40):
        t, h = noise, 0.0
        y = c = kept = np.zeros(1)
        for _ in range(100):  # halves the distance each time
            h = share * t * (math.sqrt(a) + math.sqrt(b))
            seen = x[x**4 > t**4 * a * b][:d]
            of_signal = np.sqrt((seen**2 + t**2 * a) * (seen**2 + t**2 * b)) / seen
            y = np.r_[of_signal, t * w[: d - len(seen)]]
            c = np.r_[(seen**2 - t**4 * a * b / seen**2) / of_signal, np.zeros(len(y) - len(seen))]
            kept = np.maximum(y - h, 0)
            missed = (x**2).sum() + (kept**2 - 2 * c * kept).sum()
            for std, row in zip(stds, (a, b), strict=True):
                missed += (h**2 * std**2 + t**2 * row) / (1 + h) ** 2
            before, t = t, min((t + math.sqrt(noise**2 + missed)) / 2, largest)
            if abs(t - before) < 1e-7 * t:
                break
        f = (kept * (y - c)).sum() / t**2 + (a + b) / (1 + h)
        if t < largest and f < 1:
            rows.append((h * (1 - f), t, t * (1 - f), kept.sum() / kept[0] if kept[0] else math.nan))
    return pd.DataFrame(rows, columns=["l2", "rmse", "fitted_rmse", "degree"])


def top_singular_value(ratings: Ratings, values: np.ndarray, penalty: str) -> float:
    """s1 of the (m, n) matrix with `values` (N,) in the ratings' cells, 0 elsewhere, scaled as the penalty asks.

    "per_rating": s1(D_u^-1/2 . D_i^-1/2), in the values' units. "per_table": s1 / N. With what a model without
    factors leaves over as values, the l2 from which on zero factors are its optimum. Repeatable: a fixed start vector.
    """
    checks.instance("ratings", ratings, Ratings)
    values = checks.vector("values", values).double().numpy()
    if len(values) != len(ratings) or not np.isfinite(values).all():
        raise ValueError(f"values must be {len(ratings)} finite numbers, one a rating, got {len(values)}")
    if checks.one_of("penalty", penalty, PENALTIES) == "per_table":
        return _top_triplet(ratings, values * (1 / len(values)))[1]
    users, items = ratings.users.cpu().numpy(), ratings.items.cpu().numpy()
    return _top_triplet(ratings, values * (np.bincount(users)[users] * np.bincount(items)[items]) ** -0.5)[1]


def bias_residual(ratings: Ratings, l2: float) -> np.ndarray:
    """The ratings less their mean and biases, (N,) float64, in the ratings' order.

    The biases are those that minimise the sum of e^2 + l2 (b_i^2 + c_j^2) over the ratings: the per-rating penalty;
    l2=0 is least squares, biases that nothing penalises (per_table).
    """
    checks.instance("ratings", ratings, Ratings)
    l2 = checks.number("l2", l2, least=0)
    users, items = ratings.users.cpu().numpy(), ratings.items.cpu().numpy() + ratings.n_users
    columns = np.stack([users, items], axis=1).ravel()
    scale = np.bincount(columns)[columns] ** -0.5  # unit columns: a well-conditioned problem
    rows = np.arange(0, len(columns) + 1, 2)
    design = sp.csr_array((scale, columns, rows), shape=(len(ratings), ratings.n_users + ratings.n_items))
    values = _centred(ratings)
    return values - design @ lsmr(design, values, damp=math.sqrt(l2), atol=1e-12, btol=1e-12, maxiter=10_000)[0]


def _centred(ratings: Ratings, mean: float | None = None) -> np.ndarray:
    """The ratings less `mean` (default: theirs), (N,) float64."""
    checks.instance("ratings", ratings, Ratings)
    if mean is None:
        mean = ratings.mean
    elif abs(checks.number("mean", mean)) >= HUGE:
        raise ValueError(f"mean must lie between -{HUGE:g} and {HUGE:g}, got {mean}")
    return ratings.values.cpu().double().numpy() - mean


def _top_triplet(ratings: Ratings, values: np.ndarray) -> tuple[np.ndarray, float, np.ndarray]:
    """p (m,), s1, q (n,) of the matrix with `values` (N,) in the ratings' cells and 0 elsewhere; zeros for zeros."""
    shape = (ratings.n_users, ratings.n_items)
    matrix = sp.csr_array((values, (ratings.users.cpu().numpy(), ratings.items.cpu().numpy())), shape=shape)
    if not values.any():
        return np.zeros(shape[0]), 0.0, np.zeros(shape[1])
    if min(shape) < 3:  # too small for ARPACK
        P, s, Q = np.linalg.svd(matrix.toarray(), full_matrices=False)
    else:
        options = {"k": 1, "v0": np.random.default_rng(0).standard_normal(min(shape)), "tol": 1e-12}
        P, s, Q = (np.asarray(part) for part in svds(matrix, **options))
    return P[:, 0], float(s[0]), Q[0]


def sharpness(
    ratings: Ratings,
    n_factors: int,
    scale: float,
    batch_size: int | None = None,
    reduction: str = "mean",
    *,
    mean: float | None = None,
    biases: bool = False,
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
    checks.instance("ratings", ratings, Ratings)
    size = len(ratings)
    if batch_size is not None:
        size = min(checks.integer("batch_size", batch_size, least=1), size)
    n_factors, scale = (
        checks.integer("n_factors", n_factors, least=1),
        checks.number("scale", scale, least=0, below=HUGE),
    )
    checks.one_of("reduction", reduction, REDUCTIONS)
    biases = checks.boolean("biases", biases)
    most = max(int(ids.bincount().max()) for ids in (ratings.users.cpu(), ratings.items.cpu()))
    hits = size * most / len(ratings)
    values, rng, s1 = _centred(ratings, mean), np.random.default_rng(0), []
    for _ in range(4 if size < len(ratings) else 1):
        batch = rng.permutation(len(ratings))[:size]
        s1.append(size * top_singular_value(ratings.take(batch), values[batch], "per_table"))
    K = scale**2 * (n_factors + 2 + hits) + 2 * float(np.mean(s1))
    if biases:
        K = math.hypot(K, 1 + hits)
    return 2 * K / size if reduction == "mean" else 2 * K


def max_stable_lr(
    ratings: Ratings,
    n_factors: int,
    scale: float,
    batch_size: int | None = None,
    reduction: str = "mean",
    *,
    mean: float | None = None,
    biases: bool = False,
) -> float:
    """The learning rate beyond which SGD explodes: 2 / sharpness, with its arguments; infinite where that is 0.

    A learning-rate finder without a single step: start from a half to a tenth of it (`measure.max_stable_lr` looks for
    the same border by training). B / (scale^2 (d + 2 + c) + 2 s1) under "mean". In a model with a scale other than 1,
    for ratings over that scale. Not for Adam, whose steps are bounded whatever the curvature: its lr is how far an
    entry moves a step, so lr times steps must cover the ratings' spread.
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
    if isinstance(k, float) and k == math.inf:
        return 1.0
    k = checks.number("k", k, above=0)
    outside, p = math.erfc(k / math.sqrt(2)), math.exp(-k * k / 2) / math.sqrt(2 * math.pi)  # outside = 2 (1 - P)
    return (1 - outside) ** 2 / (1 - outside - 2 * k * p + k * k * outside)


def huber_variance(k: float, share: float, size: float) -> float:
    """Variance of Huber's estimate of a middle over that of the noise, where some numbers are wrong; 1 + share size^2
    is that of the mean. Times 1 / n for n numbers (Huber 1964, section 4: E[psi^2] / E[psi']^2).

        e ~ (1 - share) N(0, 1) + share N(+-size, 1)           psi(e) = max(-k, min(e, k))

    k: delta, size: of the wrong ones, both in units of the noise's std. share: of the wrong ones, from 0 up to 1.
    Raises ValueError for a k that is not positive, a share outside [0, 1) or a negative size.
    """
    k, size = checks.number("k", k, above=0), checks.number("size", size, least=0)
    if not 0 <= checks.number("share", share) < 1:
        raise ValueError(f"share must lie in [0, 1), got {share!r}")
    square, slope = 0.0, 0.0
    for weight, middle in ((1 - share, 0.0), (share, size)):
        low, high = -k - middle, k - middle
        inside = (math.erf(high / math.sqrt(2)) - math.erf(low / math.sqrt(2))) / 2
        at_low, at_high = (math.exp(-x * x / 2) / math.sqrt(2 * math.pi) for x in (low, high))
        squares = (1 + middle**2) * inside - (high * at_high - low * at_low) + 2 * middle * (at_low - at_high)
        square += weight * (squares + k * k * (1 - inside))
        slope += weight * inside
    return square / slope**2


def huber_break_even(share: float, k: float = 1.345) -> float:
    """The size of wrong numbers, in units of the noise's std, beyond which Huber's variance is below the mean's.

    Where `huber_variance(k, share, size)` = 1 + share size^2, to a thousandth; for a `share` of wrong numbers of either
    sign. 0.1 where it lies below that, 100 where it lies above. Raises as `huber_variance`.
    """
    low, high = 0.1, 100.0
    while high / low > 1.001:
        middle = math.sqrt(low * high)
        wins = huber_variance(k, share, middle) < 1 + share * middle**2
        low, high = (low, middle) if wins else (middle, high)
    return math.sqrt(low * high)


def state_bytes(model: nn.Module, optimizer: str = "adam") -> dict[str, int]:
    """Bytes of parameters, gradients (dense) and optimizer state that stay for the whole training.

    With P trained numbers of 4 bytes: 4P each for parameters and gradients; 8P for "adam" and "adamw", 4P for
    "momentum", 0 for "sgd". Adam also keeps a step count, 4 bytes a tensor. Whatever the batch size is.
    Raises ValueError for another optimizer.
    """
    copies = {"sgd": (0, 0), "momentum": (1, 0), "adam": (2, 4), "adamw": (2, 4)}
    checks.instance("model", model, nn.Module)
    tables, counter = copies[checks.one_of("optimizer", optimizer, copies)]
    trained = [p.nbytes for p in model.parameters() if p.requires_grad]
    state = tables * sum(trained) + counter * len(trained)
    return {"parameters": sum(p.nbytes for p in model.parameters()), "gradients": sum(trained), "state": state}
