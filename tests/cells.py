"""A function that one notebook alone uses lives in a cell of its own there; here is how a test gets hold of it."""

import subprocess
import sys

import nbformat
import numpy as np
import torch

from mfkit import repository


def from_notebook(name: str, function: str):
    cells = nbformat.read(repository.root() / "notebooks" / name, as_version=4).cells
    names = {"np": np, "subprocess": subprocess, "sys": sys, "torch": torch}
    exec(next(cell.source for cell in cells if f"def {function}(" in cell.source), names)
    return names[function]
