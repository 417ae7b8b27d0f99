"""What was seen, held against the laws of `predict`: one function a finding, each of the case and of what was seen.

A function yields its finding where there is one; JUDGES, at the end, are those that need a whole batch. The words
are in findings.toml: a function fills in what stands there in braces.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import nn

from mfkit import predict
from mfkit.data import Ratings
from mfkit.doctor.case import Case
from mfkit.doctor.findings import Finding, found
from mfkit.doctor.look import Memory, Product, Reply, Seen, Table
from mfkit.initializers import factor_std
from mfkit.recipe import l2_for_noise

Findings = Iterator[Finding]
MOSTLY = 10.0  # times: from where on rows, epochs, a batch or a step are said to cost too much
MUCH_STATE = 64.0  # MB: from where on a step over whole tables costs time that is felt
WEAK = 0.1  # of the l2 for biases' noise; up to .2 of it the error on new ratings was that of biases alone, or worse
MUCH_FREEDOM = 0.1  # numbers in the factors, for one rating: below, there is little that they could learn by heart
FAR = 3.0  # times: from where on the ratings' std is another unit than that of the settings
START_SHARE = 0.1  # of the ratings' std: the proposed start's predictions


# ---------------------------------------------------------------------------------------- whether there is a batch


def out_of_memory(case: Case, memory: Memory) -> Findings:
    """A step needs more bytes than there are."""
    if memory.needed is not None and memory.needed > memory.available:
        half = max(1, case.batch_size // 2)
        yield found("high", "out of memory", memory.needed, memory.available, half=half)


def ids_out_of_range(reply: Reply) -> Findings:
    """A table is asked for a row that it does not have."""
    wrong = reply.out_of_range
    if wrong is not None:
        valid = f"0..{wrong.rows - 1}"
        yield found("high", "ids out of range", str(wrong.id), valid, table=wrong.table, rows=wrong.rows, id=wrong.id)


def prediction_shape(reply: Reply) -> Findings:
    """The prediction is no (B,), so that prediction - target broadcasts."""
    wanted = (reply.n_pairs,)
    if reply.shape is not None and reply.shape != wanted:
        yield found("high", "prediction shape", str(reply.shape), str(wanted))


# -------------------------------------------------------------------------------------------------------- the start


def wide_start(case: Case, seen: Seen) -> Findings:
    """The first predictions spread by more than half of what the ratings do: that must be unlearned."""
    std, rating_std = seen.prediction.std().item() * case.unit, case.rating_std * case.unit
    if _is_wide(case, seen):
        law = math.nan
        if seen.product is not None:
            law = predict.prediction_std(seen.product.n_factors, seen.product.user_scale, seen.product.item_scale)
        severity = "medium" if std < rating_std else "high"
        facts = {"law": law * case.unit, "std": rating_std, "init": _scaled_start(case, seen)}
        yield found(severity, "wide start", std, rating_std / 2, **facts)


def _is_wide(case: Case, seen: Seen) -> bool:
    return seen.prediction.std().item() > case.rating_std / 2


def dead_start(case: Case, seen: Seen) -> Findings:
    """No factor has any gradient: U = V = 0 is a saddle."""
    gradients = [table.gradient for table in seen.factors if table.gradient is not None]
    if gradients and not any(gradient.any() for gradient in gradients):
        yield found("high", "dead start", "0", "above 0", init=_scaled_start(case, seen))


def _scaled_start(case: Case, seen: Seen) -> str:
    """initializers.scaled_, for these ratings and any tables, as a line of code."""
    lines = []
    for table in seen.tables:
        if table.is_factors:
            n_factors = seen.product.n_factors if seen.product else table.values.shape[-1]
            scale = factor_std(n_factors, START_SHARE * case.rating_std)
            lines.append(f"nn.init.normal_(model.{table.name}, std={scale:.2g})")
        elif table.values.float().std().item() > START_SHARE * case.rating_std:
            lines.append(f"nn.init.zeros_(model.{table.name})")
    return "; ".join(lines)


def _mended_product(case: Case, product: Product, *, is_wide: bool) -> Product:
    """The product after the remedy of a wide start, where there is one: so that the rates' remedies go with it."""
    if not is_wide:
        return product
    scale = factor_std(product.n_factors, START_SHARE * case.rating_std)
    absolute_sum = 2 * product.n_factors * scale * math.sqrt(2 / math.pi)  # of Gaussian entries
    return replace(product, user_scale=scale, item_scale=scale, absolute_sum=absolute_sum)


def no_mean(case: Case, seen: Seen) -> Findings:
    """The first predictions lie more than a std of the ratings from the ratings' mean."""
    distance = abs(seen.prediction.mean().item() - case.ratings.mean) / case.rating_std
    if distance > 1:
        severity = "medium" if _is_product_alone(seen) else "note"
        yield found(severity, "no mean", distance, 1.0, mean=case.ratings.mean * case.unit)


def no_biases(case: Case, seen: Seen) -> Findings:
    """u . v, and not a bias for each user and each item."""
    if _is_product_alone(seen):
        yield found("medium", "no biases", "none", "2", m=case.ratings.n_users, n=case.ratings.n_items)


def _is_product_alone(seen: Seen) -> bool:
    return seen.product is not None and not seen.has_biases


# -------------------------------------------------------------------------------------- the optimizer and its steps


def table_not_trained(case: Case, seen: Seen) -> Findings:
    """Tables that get a gradient, and that the optimizer does not hold."""
    if seen.not_held:
        facts = {"missing": ", ".join(seen.not_held), "make": case.optimizer_name, "lr": case.lr}
        yield found("high", "table not trained", len(seen.not_held), 0, **facts)


def momentum_leak(case: Case, seen: Seen) -> Findings:
    """torch's SGD with momentum on sparse gradients, which it takes."""
    is_torch_sgd = type(case.optimizer) is torch.optim.SGD
    if seen.has_sparse_gradients and seen.sparse_error is None and is_torch_sgd and case.momentum > 0:
        yield found("high", "momentum leak", case.momentum, 0.0, lr=case.lr, momentum=case.momentum)


def sparse_optimizer(case: Case, seen: Seen) -> Findings:
    """The optimizer refuses sparse gradients."""
    if seen.sparse_error is not None:
        row = "RowSGD" if case.is_sgd else "RowAdam"
        facts = {"error": seen.sparse_error, "row": row, "lr": case.lr, "decay": case.weight_decay}
        yield found("high", "sparse optimizer", case.optimizer_name, row, **facts)


def sparse_clipping(case: Case, seen: Seen) -> Findings:
    """torch's clipping refuses sparse gradients."""
    if case.optimizer is not None and seen.has_sparse_gradients and case.clip_norm:
        yield found("high", "sparse clipping", "sparse", "dense", clip_norm=case.clip_norm)


def dense_step(case: Case, seen: Seen) -> Findings:
    """A step goes over whole tables, of which a batch reads a small part."""
    rows = _rows_stepped(case, seen)
    if case.optimizer is not None and rows > MOSTLY:
        megabytes = sum(case.state_bytes.values()) / 1e6
        severity = "medium" if megabytes > MUCH_STATE else "note"
        yield found(severity, "dense step", rows, MOSTLY, state=megabytes, lr=case.lr)


def _rows_stepped(case: Case, seen: Seen) -> float:
    """Rows of factors that a step goes over, for one that it reads; a pair reads two."""
    dense = sum(len(table.values) for table in seen.factors if not table.is_sparse)
    return dense / 2 / case.batch_size


def lr_past_the_border(case: Case, seen: Seen) -> Findings:
    """SGD with an lr above 2 / sharpness; sure above twice that, as the law holds within a factor 2."""
    product = seen.lawful_product
    if product is None or not case.is_sgd or not case.lr:
        return
    border = _stability_border(case, seen, product)
    if case.lr > border:
        sure = case.lr > 2 * border and not case.clip_norm
        mended = _mended_product(case, product, is_wide=_is_wide(case, seen))
        safe = min(_stability_border(case, seen, mended) / 2, case.lr)
        yield found("high" if sure else "medium", "lr past the border", case.lr, border, rate=_rate(case, seen, safe))


def _stability_border(case: Case, seen: Seen, product: Product) -> float:
    """The lr from which SGD explodes under this loss: that of e^2, over c."""
    border = predict.max_stable_lr(
        case.ratings,
        product.n_factors,
        math.hypot(product.user_scale, product.item_scale) / math.sqrt(2),
        case.batch_size,
        case.reduction,
        mean=product.base,
        biases=seen.has_biases,
    )
    return border / seen.curvature


def slow_start(case: Case, seen: Seen) -> Findings:
    """Epochs until anything is learnt; where that never comes (a dead start) there is nothing to hasten."""
    product = seen.lawful_product
    if product is None or not case.steps_are_known:
        return
    epochs = _slow_steps(case, seen, product) / case.steps_per_epoch
    if not MOSTLY < epochs < math.inf:
        return
    is_wide = _is_wide(case, seen)
    mended = _mended_product(case, product, is_wide=is_wide)
    mended_epochs = _slow_steps(case, seen, mended) / case.steps_per_epoch
    faster = case.lr * mended_epochs / 5
    if case.is_sgd:
        faster = min(faster, _stability_border(case, seen, mended) / 2)
    else:
        faster = max(case.lr, min(faster, _lr_that_reaches(case, seen, mended, case.rating_std / 10)))
    line = _rate(case, seen, faster)
    if is_wide and mended_epochs <= MOSTLY:
        line = _scaled_start(case, seen)
    yield found("medium", "slow start", epochs, MOSTLY, remedy=line)


def _slow_steps(case: Case, seen: Seen, product: Product) -> float:
    """Steps until the top mode is half learnt (SGD); where steps are bounded, the least that could be enough."""
    scales = product.user_scale, product.item_scale
    if case.is_sgd:
        lr = case.lr * seen.curvature * case.loss_over_mean  # for the mean of e^2
        return predict.escape_time(case.ratings, product.n_factors, *scales, lr, mean=product.base)
    travel = max(*scales, _lr_that_reaches(case, seen, product, case.rating_std))
    if seen.has_biases:
        travel = max(travel, case.bias_std)
    return travel / case.lr  # as a step moves an entry by about lr


def lr_beyond_the_ratings(case: Case, seen: Seen) -> Findings:
    """A step of about lr an entry moves a prediction by more than the ratings spread."""
    if not case.has_bounded_steps or not case.lr:
        return
    a_unit, safe_a_unit = 1.0, 1.0  # reach over lr, of a model of which nothing else is known
    if seen.product is not None:
        mended = _mended_product(case, seen.product, is_wide=_is_wide(case, seen))
        a_unit = _reach_over_lr(seen, seen.product, case.lr)
        safe_a_unit = _reach_over_lr(seen, mended, case.lr)
    reach = case.lr * a_unit
    if reach > case.rating_std:
        severity = "medium" if reach < MOSTLY * case.rating_std else "high"
        safe = min(case.lr, case.rating_std / safe_a_unit / 3)
        facts = {"rate": _rate(case, seen, safe)}
        yield found(severity, "lr beyond the ratings", reach * case.unit, case.rating_std * case.unit, **facts)


def _reach_over_lr(seen: Seen, product: Product, lr: float) -> float:
    """How far a step of lr an entry moves a prediction, over lr: all signs at their worst.

    (u + lr) . (v + lr) - u . v = lr (|u|_1 + |v|_1 + d lr), and two biases
    """
    biases = 2 if seen.has_biases else 0
    return product.absolute_sum + product.n_factors * lr + biases


def _lr_that_reaches(case: Case, seen: Seen, product: Product, distance: float) -> float:
    """The lr at which one step so moves a prediction by `distance`; or what lr times steps must be, all one way."""
    linear = _reach_over_lr(seen, product, 0.0)
    return 2 * distance / (linear + math.sqrt(linear**2 + 4 * product.n_factors * distance))


def _unit_hint(case: Case) -> str:
    """Where no one lr and no one l2 can fit both factors and biases, as the ratings' std is far from 1: a comment."""
    if 1 / FAR <= case.rating_std <= FAR:
        return ""
    return "  # better: with ratings over their std, as MatrixFactorization(..., scale=ratings.std) has them"


def _rate(case: Case, seen: Seen, lr: float) -> str:
    """The line that sets it; it goes with the new start, where the old one is wide."""
    with_start = "  # with the new start" if _is_wide(case, seen) else ""
    return f"optimizer.param_groups[0]['lr'] = {lr:.2g}{with_start}{_unit_hint(case)}"


def decay_of_unread_rows(case: Case, seen: Seen) -> Findings:
    """Adam's weight_decay is a part of the gradient, which Adam scales to about lr, in rows that nobody reads too."""
    is_coupled = isinstance(case.optimizer, torch.optim.Adam) and not case.decay_is_decoupled
    if not (is_coupled and case.weight_decay and case.steps_are_known and _rows_stepped(case, seen) > 1):
        return
    moved = case.lr * case.steps_per_epoch
    size = max((table.values.float().std().item() for table in seen.factors), default=0.0)
    if moved > size:
        yield found("medium", "decay of unread rows", moved, size, lr=case.lr, decay=case.weight_decay)


def lost_updates(case: Case, seen: Seen) -> Findings:
    """A step is smaller than half the gap between two numbers of the table's dtype."""
    if not case.steps_are_known:
        return
    for table in seen.factors:
        if table.gradient is None:
            continue
        gap, step = _half_gap(case, table), _step_size(case, table.gradient)
        if gap > step:
            yield found("high", "lost updates", gap, step, table=table.name, dtype=table.values.dtype)


def _half_gap(case: Case, table: Table) -> float:
    """Half the gap to the next number at the median weight: less than that rounds to nothing."""
    dtype = table.values.dtype
    if torch.tensor(case.group.get("eps", 1.0), dtype=dtype) == 0:
        return math.inf  # Adam's eps = 1e-8 is 0 in float16: rows without a gradient become 0 / 0
    weight = table.values.abs().double().median().item()
    return 2.0 ** math.floor(math.log2(weight)) * torch.finfo(dtype).eps / 2 if weight else 0.0


def _step_size(case: Case, gradient: torch.Tensor) -> float:
    """Of an entry with a gradient: lr times the median gradient under SGD, about lr where steps are bounded."""
    sizes = gradient.double().abs()
    if case.is_sgd and sizes.any():
        return case.lr * sizes[sizes > 0].median().item()
    return case.lr


# ---------------------------------------------------------------------------------------------------- the penalties


@dataclass(frozen=True)
class Shrinkage:
    """A penalty that the reader gave, as the l2 that it is beside the mean of e^2."""

    what: str  # "l2" or "weight_decay"
    given: float
    l2: float
    penalty: str  # "per_rating" or "per_table"


def _over_l2(case: Case, seen: Seen) -> float:
    """The loss over the mean of e^2, as far as it makes the reader's l2 weigh less."""
    sums = case.loss_over_mean if case.penalty == "per_table" else 1  # that one is added after the reduction
    return seen.curvature * sums


def _shrinkages(case: Case, seen: Seen) -> Iterator[Shrinkage]:
    """l2, and the optimizer's weight_decay, wd |w|^2 / 2 of each table, where it is a part of the gradient."""
    if case.l2:
        yield Shrinkage("l2", case.l2, case.l2 / _over_l2(case, seen), case.penalty)
    if case.weight_decay and not case.decay_is_decoupled:
        l2 = case.weight_decay / 2 / seen.curvature / case.loss_over_mean
        yield Shrinkage("weight_decay", case.weight_decay, l2, "per_table")


def collapse(case: Case, seen: Seen) -> Findings:
    """Factors of zero are the global optimum under this penalty."""
    product = seen.lawful_product
    if product is None:
        return
    for shrinkage in _shrinkages(case, seen):
        border = _collapse_border(_left_over(case, product), shrinkage, has_biases=seen.has_biases)
        if shrinkage.l2 > border:
            besides = " and biases remain" if seen.has_biases else ""
            facts = {"what": shrinkage.what, "given": shrinkage.given, "penalty": shrinkage.penalty}
            mild = _mild_l2(case)
            if shrinkage.penalty == "per_rating":
                mild = min(mild, border / 2)
            facts |= {"besides": besides, "mild": mild, "errors": _errors(case)}
            yield found("high", "collapse", shrinkage.l2, border, **facts)


def _collapse_border(left: Ratings, shrinkage: Shrinkage, *, has_biases: bool) -> float:
    """predict.collapse_l2 of what the mean leaves over, with the biases of the very l2 that it is compared with."""
    values = left.values.double().cpu().numpy()
    if has_biases:
        values = predict.bias_residual(left, shrinkage.l2 if shrinkage.penalty == "per_rating" else 0.0)
    return predict.top_singular_value(left, values, shrinkage.penalty)


def table_scale_penalty(case: Case, seen: Seen) -> Findings:
    """A penalty of the whole tables is, for a row with few ratings, an l2 per rating that erases it."""
    product = seen.lawful_product
    if product is None:
        return
    for shrinkage in _shrinkages(case, seen):
        if shrinkage.penalty != "per_table":
            continue
        median_row = shrinkage.l2 * case.rows_per_count
        border = predict.collapse_l2(_left_over(case, product))
        if median_row > border:
            facts = {"what": shrinkage.what, "given": shrinkage.given}
            facts |= {"mild": _mild_l2(case), "errors": _errors(case)}
            yield found("medium", "table-scale penalty", median_row, border, **facts)


def _left_over(case: Case, product: Product) -> Ratings:
    """The ratings less what the model adds to u . v as a constant."""
    return case.ratings.with_values(case.ratings.values - product.base)


def weak_penalty(case: Case, seen: Seen) -> Findings:
    """l2 is far below what the noise asks for, in a model that can fit the noise, and nothing else is seen to hold it.

    The noise is that of mean and biases alone, so rather too large.
    """
    product = seen.lawful_product
    if product is None or case.l2 is None or case.weight_decay or _is_held_back(case.model):
        return
    trained = sum(len(table.values) for table in seen.factors if table.gradient is not None)
    if trained * product.n_factors < MUCH_FREEDOM * len(case.ratings):
        return
    rows = case.rows_per_count if case.penalty == "per_table" else 1.0
    l2, wanted = case.l2 / _over_l2(case, seen) * rows, _mild_l2(case)
    if l2 < WEAK * wanted:
        own = wanted * _over_l2(case, seen) / rows  # in the reader's objective
        yield found("medium", "weak penalty", l2, WEAK * wanted, l2=own, hint=_unit_hint(case))


def _is_held_back(model: nn.Module) -> bool:
    """By dropout, or by a largest norm of a row."""
    for module in model.modules():
        if (isinstance(module, nn.Dropout) and module.p) or getattr(module, "max_norm", None) is not None:
            return True
    return False


def _mild_l2(case: Case) -> float:
    """The recipe's l2 per rating, with the noise that biases alone leave."""
    return l2_for_noise(case.ratings, case.noise_std)


def _errors(case: Case) -> str:
    """What the mean squared error of a remedy is of, where that is not the plain error."""
    return "" if case.unit == 1 else f" mse: of errors / {case.unit:.3g};"


def huber_swap(case: Case, seen: Seen) -> Findings:
    """The loss is c e^2 with another c than 1, so that the l2 weighs 1 / c times as much."""
    if seen.lawful_product is None:
        return
    l2 = case.l2 or 0.0
    weighs, same = l2 / seen.curvature, l2 * seen.curvature
    if not math.isclose(weighs, same, rel_tol=1e-3):
        yield found("medium", "huber swap", f"{weighs:.3g}", l2, curvature=seen.curvature, same=same)


# --------------------------------------------------------------------------------------------------------- the data


def cold_rows(case: Case, seen: Seen) -> Findings:
    """Rows of which no rating is known."""
    ids = {"users": case.ratings.users, "items": case.ratings.items}
    for table in seen.factors:
        rated = sum(len(ids[kind].unique()) for kind in table.kinds)
        cold = 1 - rated / max(table.values.shape)  # (k, n) tables too
        if cold > 0:
            severity = "medium" if cold > 0.5 else "note"
            yield found(severity, "cold rows", cold, 0.0, table=table.name, rows=len(table.values))


def slow_loader(case: Case, seen: Seen) -> Findings:
    """The loader takes many times as long for a batch as slices of tensors."""
    if seen.loader_ratio is not None and seen.loader_ratio > MOSTLY:
        yield found("medium", "loader", seen.loader_ratio, MOSTLY, batch_size=case.batch_size)


JUDGES: list[Callable[[Case, Seen], Findings]] = [  # in the order in which findings of one severity are told
    wide_start,
    dead_start,
    no_mean,
    no_biases,
    table_not_trained,
    momentum_leak,
    sparse_optimizer,
    sparse_clipping,
    dense_step,
    lr_past_the_border,
    slow_start,
    lr_beyond_the_ratings,
    decay_of_unread_rows,
    lost_updates,
    huber_swap,
    collapse,
    table_scale_penalty,
    weak_penalty,
    cold_rows,
    slow_loader,
]
