"""Calls with good arguments, and with one bad one: what must hold of each, and how many there were."""

import copy
import re
import signal
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

import mfkit

COUNTS = Counter(good=0, bad=0)
REFUSALS = (ValueError, TypeError, IndexError, KeyError, mfkit.DivergenceError)
PACKAGE = Path(mfkit.__file__).parent


def good(function: Callable, /, *args: Any, **kwargs: Any) -> Any:
    """What the call returns; it counts as a good one."""
    COUNTS["good"] += 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*args, **kwargs)


class Endless(BaseException):
    """The call was still running after its time."""


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Endless if the block takes longer."""

    def stop(*_: object) -> None:
        raise Endless(f"did not end within {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def bad(function: Callable, argument: str, arguments: dict[str, Any], *, must_refuse: bool = True) -> None:
    """mfkit itself must refuse this, with the argument's name, and leave every model as it was.

    must_refuse=False: it may work as well.
    """
    COUNTS["bad"] += 1
    given = f"{argument}={arguments[argument]!r:.60}"
    models = [x for x in (getattr(function, "__self__", None), *arguments.values()) if isinstance(x, nn.Module)]
    before = copy.deepcopy([model.state_dict() for model in models])
    try:
        with warnings.catch_warnings(), within(seconds=5):
            warnings.simplefilter("ignore")
            result = function(**arguments)
    except Endless as error:
        raise AssertionError(f"{given} {error}") from None
    except Exception as error:
        frame = error.__traceback__
        while frame.tb_next is not None:
            frame = frame.tb_next
        where, got = Path(frame.tb_frame.f_code.co_filename), f"{type(error).__name__}: {error}"
        assert isinstance(error, REFUSALS), f"{given}: an error of another kind: {got}"
        assert where.is_relative_to(PACKAGE), f"{given}: an error of {where}: {got}"
        assert re.search(rf"(?<!\w){argument.removesuffix('s')}s?(?!\w)", str(error)), f"{given} is not named: {got}"
    else:
        assert not must_refuse, f"{given} was not refused: returned {result!r:.80}"
        return
    for model, state in zip(models, before, strict=True):
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, state[name]), f"{given} changed {name}"
