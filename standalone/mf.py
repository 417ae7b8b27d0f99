r"""Matrix factorization, one file to copy: it needs torch alone. At the same l2 its numbers are mfkit's, bit for bit.

    prediction = mean + scale (b_i + c_j + u_i . v_j)     of item j by user i; mean, scale: the ratings' mean and std
    objective  = mean over a batch of [ e^2 + l2 (b_i^2 + c_j^2 + |u_i|^2 + |v_j|^2) ],     e = error / scale

Columns user, item, rating, each pair once: python mf.py ratings.csv, or with a delimiter: python mf.py u.data $'\t'
"""

import csv
import math
import sys

import torch
from torch import Tensor, nn


class MF(nn.Module):
    def __init__(self, n_users: int, n_items: int, d: int, mean: float, scale: float) -> None:
        super().__init__()
        self.mean = nn.Buffer(torch.tensor(mean))  # constants: neither trained nor penalised
        self.scale = nn.Buffer(torch.tensor(scale))
        self.b, self.c = nn.Embedding(n_users, 1), nn.Embedding(n_items, 1)
        self.U, self.V = nn.Embedding(n_users, d), nn.Embedding(n_items, d)

    def forward(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:  # row numbers from 0: (B,), (B,)
        b, c, u, v = self.b(users), self.c(items), self.U(users), self.V(items)
        prediction = self.mean / self.scale + b.squeeze(-1) + c.squeeze(-1) + (u * v).sum(-1)
        squares = b.square().sum() + c.square().sum() + u.square().sum() + v.square().sum()
        return prediction * self.scale, squares  # (B,), and what l2 penalises: the rows that were read


def train(ratings: list[Tensor], n_users: int, n_items: int, d: int = 20, l2: float | None = None) -> MF:
    """ratings: users (N,) and items (N,), row numbers, and values (N,).  d: columns of U and V."""
    users, items, values = ratings
    model = MF(n_users, n_items, d, values.double().mean().item(), values.double().std(correction=0).item())
    torch.manual_seed(0)
    for bias, factors, rows in ((model.b, model.U, users), (model.c, model.V, items)):
        nn.init.zeros_(bias.weight)
        nn.init.normal_(factors.weight, std=math.sqrt(0.1) / d**0.25)  # u . v starts with a std of sqrt(d) std^2 = 0.1
        factors.weight.data[torch.bincount(rows, minlength=len(factors.weight)) == 0] = 0  # no rating will move these
    if l2 is None:  # about half of what keeps factors of pure noise at zero, if noise is 0.8 of the ratings' std
        l2 = 0.53 * 0.8 * sum(1 / math.sqrt(len(rows) / len(rows.unique())) for rows in (users, items))
    batch_size = min(max(2 ** round(math.log2(len(values) / 128)), 32), 512)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005, fused=True)
    for epoch in range(1, 31):
        torch.manual_seed(epoch)
        for batch in torch.randperm(len(values)).split(batch_size):
            prediction, squares = model(users[batch], items[batch])
            e = prediction / model.scale - values[batch] / model.scale
            loss = (e.square().sum() + l2 * squares) / len(batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model


def rmse(prediction: Tensor, values: Tensor) -> float:
    return (prediction - values).double().square().mean().sqrt().item()


def read(path: str, delimiter: str = ",") -> list[Tensor]:
    with open(path, newline="") as file:
        lines = [line for line in csv.reader(file, delimiter=delimiter) if line]
    first = 0 if lines[0][2][-1].isdigit() else 1  # the line after the header, if there is one
    user_rows, item_rows, users, items, values = {}, {}, [], [], []
    for user, item, rating, *_ in lines[first:]:
        users.append(user_rows.setdefault(user, len(user_rows)))  # a new id gets the next row
        items.append(item_rows.setdefault(item, len(item_rows)))
        values.append(float(rating))
    return [torch.tensor(users), torch.tensor(items), torch.tensor(values)]


if __name__ == "__main__":
    ratings = read(*sys.argv[1:])
    torch.manual_seed(0)
    test, rest = torch.randperm(len(ratings[2])).tensor_split([len(ratings[2]) // 10])
    model = train([column[rest] for column in ratings], len(ratings[0].unique()), len(ratings[1].unique()))
    users, items, values = (column[test] for column in ratings)
    prediction, _ = model(users, items)
    print(f"Test RMSE {rmse(prediction, values):.4f}; predicting the mean: {rmse(model.mean, values):.4f}")
