"""A killed run goes on as if nothing had been; a checkpoint that is not this run's, or is damaged, is refused."""

import hashlib
import io
import os
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mfkit import DivergenceError, Ratings, TrainConfig, checkpoint, synthetic, train, trainer
from tests.test_trainer import QUICK, TwoTables, close, model_for, problem, same, snapshot

# This file run as a script is the process that gets killed

VARIANTS = {
    "adam": (lambda r: model_for(r), replace(QUICK, epochs=4, l2=0.05)),
    "momentum": (
        lambda r: model_for(r),
        replace(QUICK, epochs=4, optimizer="sgd", lr=0.5, momentum=0.9, clip_norm=0.5),
    ),
    "sparse": (
        lambda r: model_for(r, sparse=True),
        replace(QUICK, epochs=4, batch_size=32, optimizer="adamw", weight_decay=0.1),
    ),
    "dropout": (lambda r: TwoTables(dropout=0.3), replace(QUICK, epochs=4)),
    "patience": (lambda r: model_for(r, d=8), replace(QUICK, epochs=9, lr=0.01, patience=2)),
}


def run(variant, path=None, on_step=None):
    ratings, validation = problem()
    make, config = VARIANTS[variant]
    model = make(ratings)
    history = train(
        model, ratings, config, validation=validation, checkpoint=path, resume=path is not None, on_step=on_step
    )
    return snapshot(model), history.frame.drop(columns="seconds")


def die(*_args):
    os.kill(os.getpid(), signal.SIGKILL)


KILLS = [
    ("adam", 1, "step"),
    ("momentum", 3, "step"),
    ("sparse", 2, "step"),
    ("dropout", 2, "step"),
    ("patience", 3, "step"),
    ("adam", 2, "save"),
]


@pytest.fixture(scope="module")
def graveyard(tmp_path_factory):
    """A folder with the checkpoints of runs that were killed, each in a process of its own."""
    folder = tmp_path_factory.mktemp("killed")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    subprocess.run([sys.executable, __file__, str(folder)], env=environment, timeout=300, check=True)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "epoch", "where"), KILLS)
def test_killed_and_resumed(variant, epoch, where, graveyard):
    path = graveyard / f"{variant}-{epoch}-{where}.pt"
    done = [r["epoch"] for r in checkpoint.read(path)["records"]]
    assert done[-1] == (epoch if where == "step" else epoch - 1)
    for ours, uninterrupted in zip(run(variant, path), run(variant), strict=True):
        assert ours.equals(uninterrupted) if hasattr(ours, "equals") else same(ours, uninterrupted)


def test_resumed_after_the_end_changes_nothing(tmp_path):
    finished = run("patience", tmp_path / "run.pt")
    again = run("patience", tmp_path / "run.pt")
    assert same(finished[0], again[0])
    assert finished[1].equals(again[1])


def test_longer_epochs_go_on_from_the_checkpoint(tmp_path):
    ratings, _ = problem()
    once, twice = model_for(ratings), model_for(ratings)
    train(once, ratings, replace(QUICK, epochs=3))
    for epochs in (1, 3):
        train(twice, ratings, replace(QUICK, epochs=epochs), checkpoint=tmp_path / "run.pt", resume=True)
    assert same(snapshot(once), snapshot(twice))
    assert [file.name for file in tmp_path.iterdir()] == ["run.pt"]


def test_a_checkpoint_crosses_devices(tmp_path, monkeypatch):
    """Written by the plain path, read by the masked one, whose optimizer must still skip bad updates."""
    ratings, _ = problem()
    train(model_for(ratings), ratings, QUICK, checkpoint=tmp_path / "run.pt")
    monkeypatch.setattr(trainer, "MASKED_DEVICES", {"cpu"})
    model = model_for(ratings)
    model.register_forward_hook(lambda module, _, out: out * torch.nan if module.training else out)
    with pytest.raises(DivergenceError):
        train(model, ratings, replace(QUICK, epochs=4), checkpoint=tmp_path / "run.pt", resume=True)
    saved = checkpoint.read(tmp_path / "run.pt")["model"]
    assert all(torch.equal(tensor, saved[name]) for name, tensor in model.state_dict().items())


def test_checkpoints_refuse_by_name(tmp_path):
    ratings, validation = problem()
    path = tmp_path / "run.pt"

    def again(model=None, on=ratings, config=QUICK, resume=True, path=path):
        train(model or model_for(ratings), on, config, checkpoint=path, resume=resume)

    again()
    with pytest.raises(ValueError, match=r"checkpoint='.*run.pt' exists; want resume=True"):
        again(resume=False)
    with pytest.raises(ValueError, match=r"config.lr must be the checkpoint's 0.02 to resume, got 0.5"):
        again(config=replace(QUICK, lr=0.5))
    with pytest.raises(ValueError, match=r"ratings must be the checkpoint's"):
        again(on=validation)
    with pytest.raises(ValueError, match=r"model must be the checkpoint's"):
        again(model=model_for(ratings, d=5))
    with pytest.raises(ValueError, match=r"model must be the checkpoint's.*float32.*float64"):
        again(model=model_for(ratings).double())
    with pytest.raises(ValueError, match=r"checkpoint='.*missing/run.pt' must be a file's name in a folder"):
        again(path=tmp_path / "missing" / "run.pt")
    with pytest.raises(ValueError, match=r"resume=True needs a checkpoint"):
        again(path=None)
    with pytest.raises(ValueError, match=r"checkpoint='.*' must be a file's name in a folder"):
        again(path=tmp_path)


def test_ratings_that_repeat_in_step_are_other_ratings(tmp_path):
    """Weights that repeat every 1,009 ratings, as a sum once had, do not tell a roll by 1,009 from the same data."""
    ratings, _ = synthetic(60, 50, 2018, rank=2, seed=0)
    rolled = ratings.take(torch.arange(len(ratings)).roll(1009))
    config, path = replace(QUICK, epochs=1, batch_size=1024), tmp_path / "run.pt"
    train(model_for(ratings), ratings, config, checkpoint=path)
    with pytest.raises(ValueError, match="ratings must be the checkpoint's, in their order"):
        train(model_for(ratings), rolled, replace(config, epochs=2), checkpoint=path, resume=True)


def test_another_validation_set_is_refused_where_it_decides(tmp_path):
    """`patience` compares RMSEs of epochs: of two sets they are on two scales."""
    ratings, validation = problem()
    other = validation.with_values(validation.values + 1)
    for patience in (3, None):
        config, path = replace(QUICK, patience=patience), tmp_path / f"{patience}.pt"
        train(model_for(ratings), ratings, config, validation=validation, checkpoint=path)
        again = partial(train, model_for(ratings), ratings, replace(config, epochs=3), checkpoint=path, resume=True)
        if patience:
            with pytest.raises(ValueError, match="validation must be the checkpoint's, to resume with patience"):
                again(validation=other)
        else:
            again(validation=other)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_warm_up_with_a_frozen_table_is_not_resumed_with_all_tables(optimizer, tmp_path):
    """State matched by position gave one table's to another, which the fused kernels then read beyond its end."""
    ratings, _ = problem()
    path, config = tmp_path / "run.pt", replace(QUICK, optimizer=optimizer)
    model = model_for(ratings)
    model.user_factors.weight.requires_grad_(False)
    train(model, ratings, config, checkpoint=path)
    model, before = model_for(ratings), snapshot(model_for(ratings))
    with pytest.raises(ValueError, match=r"model must train the checkpoint's \['item_factors.weight', .* to resume"):
        train(model, ratings, replace(config, epochs=3), checkpoint=path, resume=True)
    assert same(before, snapshot(model))


def test_state_belongs_to_names_not_positions(tmp_path):
    """Biases registered first: the same model, its parameters in another order, goes on as if nothing had been."""
    ratings, _ = problem()
    path = tmp_path / "run.pt"

    def reordered():
        model = model_for(ratings)
        for name in ("user_factors", "item_factors"):
            table = getattr(model, name)
            delattr(model, name)
            setattr(model, name, table)
        return model

    assert next(name for name, _ in reordered().named_parameters()) == "user_bias.weight"
    whole, resumed = model_for(ratings), reordered()
    train(whole, ratings, replace(QUICK, epochs=4))
    train(model_for(ratings), ratings, replace(QUICK, epochs=2), checkpoint=path)
    train(resumed, ratings, replace(QUICK, epochs=4), checkpoint=path, resume=True)
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], tensor)


def enveloped(state) -> bytes:
    """A file with a right checksum around any state."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return checkpoint.FIRST_LINE + hashlib.sha256(buffer.getvalue()).digest() + buffer.getvalue()


def test_every_altered_or_truncated_file_is_one_error_and_changes_nothing(tmp_path):
    """Of single-bit flips in a checkpoint without a checksum, a third resumed to other numbers without a word."""
    ratings, _ = problem()
    path, rng = tmp_path / "run.pt", np.random.default_rng(0)
    train(model_for(ratings), ratings, QUICK, checkpoint=path)
    whole = path.read_bytes()
    bits = [0, 8 * len(whole) - 1, *range(0, 8 * 60, 7), *rng.integers(8 * len(whole), size=340)]
    damaged = []
    for bit in bits:
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        damaged.append(bytes(content))
    damaged += [whole[:size] for size in (0, 1, 19, 20, 51, 52, 100, len(whole) - 1)]
    damaged += [whole + b"x", b"x" + whole, whole + whole]
    model = model_for(ratings)
    before = snapshot(model)
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(ValueError, match="must be a file that train wrote, whole and unaltered"):
            train(model, ratings, replace(QUICK, epochs=3), checkpoint=path, resume=True)
    assert same(before, snapshot(model))
    path.write_bytes(whole)
    train(model, ratings, replace(QUICK, epochs=3), checkpoint=path, resume=True)


def test_foreign_content_under_a_right_checksum_is_one_error(tmp_path):
    ratings, _ = problem()
    path = tmp_path / "run.pt"
    train(model_for(ratings), ratings, QUICK, checkpoint=path)
    state = checkpoint.read(path)
    wrong_shape = {"user_factors.weight": {"exp_avg": torch.zeros(3, 3)}}
    foreign = [
        {"weights": torch.zeros(3)},
        [1, 2],
        {**state, "more": 1},
        {name: part for name, part in state.items() if name != "best"},
        {**state, "model": None},
        {**state, "records": [{"step": 1}]},
        {**state, "records": 7},
        {**state, "optimizer": wrong_shape},
        {**state, "optimizer": {"no_such.weight": {"exp_avg": torch.zeros(3)}}},
    ]
    for content in (enveloped(x) for x in foreign):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"checkpoint='.*run.pt' must hold what train writes, got: ."):
            train(model_for(ratings), ratings, replace(QUICK, epochs=3), checkpoint=path, resume=True)
    path.write_bytes(enveloped(state))
    train(model_for(ratings), ratings, replace(QUICK, epochs=3), checkpoint=path, resume=True)


def test_a_checkpoint_of_the_first_version_is_refused_with_a_sentence(tmp_path):
    ratings, _ = problem()
    path = tmp_path / "run.pt"
    torch.save({"model": model_for(ratings).state_dict(), "optimizer": {}, "records": []}, path)
    with pytest.raises(
        ValueError, match=r"was written by torch.save or by mfkit 0.1, and such files cannot be verified; want one"
    ):
        train(model_for(ratings), ratings, QUICK, checkpoint=path, resume=True)


def test_the_ratings_are_hashed_once(tmp_path, monkeypatch):
    ratings, _ = problem()
    calls = []
    monkeypatch.setattr(checkpoint, "digest", lambda given: calls.append(given) or "0")
    train(model_for(ratings), ratings, replace(QUICK, epochs=5), checkpoint=tmp_path / "run.pt")
    assert len(calls) == 1


class Holder(nn.Module):
    """A module that does nothing but hold the model."""

    def __init__(self, model):
        super().__init__()
        self.held = model

    def forward(self, users, items):
        return self.held(users, items)


def test_a_wrapped_run_is_resumed_bare_and_the_other_way_round(tmp_path):
    """Names are those of the model inside."""
    ratings, _ = problem()
    config = replace(QUICK, l2=0.1, epochs=4)
    whole = model_for(ratings)
    train(whole, ratings, config)
    wrappers = {"bare": lambda model: model, "held": Holder, "compiled": lambda m: torch.compile(m, backend="eager")}
    for first, second in (("held", "bare"), ("bare", "held"), ("compiled", "bare")):
        path = tmp_path / f"{first}-{second}.pt"
        train(wrappers[first](model_for(ratings)), ratings, replace(config, epochs=2), checkpoint=path)
        model = model_for(ratings)
        train(wrappers[second](model), ratings, config, checkpoint=path, resume=True)
        assert close(snapshot(model), snapshot(whole))


def test_numpy_numbers_do_not_spoil_a_checkpoint(tmp_path):
    given = Ratings(np.arange(9) % 3, np.arange(9) // 3, np.arange(9.0), np.int64(3), np.int64(3))
    config = TrainConfig.textbook(lr=np.float64(0.1), l2=np.float32(0.5), batch_size=np.int64(4), epochs=1)
    for _ in range(2):
        train(model_for(given), given, config, checkpoint=str(tmp_path / "run.pt"), resume=True)


def run_and_die(variant, epoch, where, path):
    if where == "save":  # in the middle of writing: the temporary file is there, the move is not done
        replaced, left = os.replace, [epoch]

        def replace_or_die(*args):
            left[0] -= 1
            return replaced(*args) if left[0] else die()

        os.replace = replace_or_die
    run(variant, path, on_step=lambda record: die() if record["epoch"] > epoch else None)


if __name__ == "__main__":
    for variant, epoch, where in KILLS:
        if (child := os.fork()) == 0:
            run_and_die(variant, epoch, where, Path(sys.argv[1]) / f"{variant}-{epoch}-{where}.pt")
            os._exit(0)  # never reached
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL, (variant, epoch, where)
