"""standalone/mf.py: mfkit's numbers bit for bit, in eighty lines that need torch alone."""

import ast
import importlib.util
import re
import subprocess
import sys

import pytest
import torch

import mfkit
from mfkit import __main__ as command
from mfkit import repository
from mfkit.recipe import l2_for_noise

PATH = repository.root() / "standalone" / "mf.py"

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def mf():
    spec = importlib.util.spec_from_file_location("mf", PATH)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def parts():
    """Training and test ratings. A user and an item have none in training."""
    ratings, _ = mfkit.synthetic(120, 90, 4_000, rank=3, noise=0.5, seed=0)
    train, test = ratings.split((0.9, 0.1), seed=0)
    return train.take((train.users != 7) & (train.items != 11)), test


def tables(model) -> list[torch.Tensor]:
    if isinstance(model, mfkit.MatrixFactorization):
        ours = (model.user_bias, model.item_bias, model.user_factors, model.item_factors)
    else:
        ours = (model.b, model.c, model.U, model.V)
    return [table.weight for table in ours]


def same(one, other) -> bool:
    return all(torch.equal(a, b) for a, b in zip(tables(one), tables(other), strict=True))


def test_its_numbers_are_those_of_mfkit_with_nothing_chosen(mf, parts):
    train, test = parts
    model = mfkit.initializers.scaled_(mfkit.MatrixFactorization.of(train), seed=0)
    history = mfkit.train(model, train)
    its = mf.train(list(train.columns), train.n_users, train.n_items, l2=history.config.l2)
    assert same(its, model)
    assert (its.mean, its.scale) == (model.mean, model.scale)
    assert its.U.weight[7].abs().sum() == its.V.weight[11].abs().sum() == 0 < its.U.weight[8].abs().sum()
    prediction, _ = its(test.users, test.items)
    assert mf.rmse(prediction, test.values) == mfkit.rmse(model, test) < test.std


@pytest.mark.parametrize("n_ratings", [900, 4_000])
def test_without_l2_it_takes_noise_for_four_fifths_of_the_ratings_spread(mf, n_ratings):
    ratings, _ = mfkit.synthetic(120, 90, n_ratings, rank=3, noise=0.5, seed=1)
    model = mfkit.initializers.scaled_(mfkit.MatrixFactorization.of(ratings, n_factors=5), seed=0)
    model.meet(ratings)
    mfkit.train(model, ratings, mfkit.TrainConfig(l2=l2_for_noise(ratings, 0.8)))
    its = mf.train(list(ratings.columns), ratings.n_users, ratings.n_items, d=5)
    assert same(its, model)
    assert not same(mf.train(list(ratings.columns), ratings.n_users, ratings.n_items, d=5, l2=0.1), model)


def test_it_has_eighty_lines_at_most_and_imports_torch_and_the_standard_library():
    text = PATH.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 80
    imported = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module is not None
            imported.add(node.module.split(".")[0])
    assert imported <= {"torch"} | sys.stdlib_module_names
    assert "torch" in imported


@pytest.mark.parametrize("header", ["", "user,item,rating,time\n"])
def test_a_table_is_read_by_its_first_three_columns(mf, tmp_path, header):
    path = tmp_path / "ratings.csv"
    path.write_text(header + '"Ann, B.",x,4.5,0\nbob,x,-1,0\n\nbob,y,3,0\n')
    users, items, values = mf.read(path)
    assert (users.tolist(), items.tolist(), values.tolist()) == ([0, 1, 1], [0, 0, 1], [4.5, -1.0, 3.0])


@pytest.mark.parametrize(("delimiter", "header"), [(",", "user,item,rating\n"), ("\t", "")])
def test_as_a_program_it_prints_the_test_rmse_beside_that_of_the_mean(mf, parts, tmp_path, delimiter, header):
    path = tmp_path / "table"
    rows = zip(*(column.tolist() for column in parts[0].columns), strict=True)
    lines = [delimiter.join((f"u_{user}", f"i_{item}", str(rating))) for user, item, rating in rows]
    path.write_text(header + "\n".join(lines))
    arguments = [sys.executable, PATH, path] if delimiter == "," else [sys.executable, PATH, path, delimiter]
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    score, of_mean = re.fullmatch(r"Test RMSE (\S+); predicting the mean: (\S+)\n", done.stdout).groups()

    ratings = mf.read(path, delimiter)
    sizes = [len(column.unique()) for column in ratings[:2]]
    torch.manual_seed(0)
    test, rest = torch.randperm(len(ratings[2])).tensor_split([len(ratings[2]) // 10])
    train, test = (mfkit.Ratings(*(column[part] for column in ratings), *sizes) for part in (rest, test))
    model = mfkit.initializers.scaled_(mfkit.MatrixFactorization.of(train), seed=0)
    mfkit.train(model, train, mfkit.TrainConfig(l2=l2_for_noise(train, 0.8)))
    assert float(score) == pytest.approx(mfkit.rmse(model, test), abs=6e-5)
    assert float(of_mean) == pytest.approx(((test.values - train.mean) ** 2).mean().sqrt().item(), abs=6e-5)
    assert float(score) < float(of_mean)


def test_eject_prints_it(capsys):
    assert command.main(["eject"]) == 0
    assert capsys.readouterr().out == PATH.read_text(encoding="utf-8")
