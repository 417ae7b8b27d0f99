"""The hook that sees unrun cells before they are committed."""

from pathlib import Path

import nbformat
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from tests.unrun import main

ROOT = Path(__file__).parents[1]


def test_unrun_cells_are_named(tmp_path, capsys):
    run, blank = new_code_cell("1 + 1", execution_count=1), new_code_cell(" \n")
    cells = [new_markdown_cell("Text"), run, new_code_cell("2 + 2"), blank, new_code_cell("3 + 3")]
    nbformat.write(new_notebook(cells=cells), tmp_path / "bad.ipynb")
    nbformat.write(new_notebook(cells=[run, blank]), tmp_path / "good.ipynb")
    assert main([str(tmp_path / "good.ipynb"), str(tmp_path / "bad.ipynb")]) == 1
    said = capsys.readouterr().out.splitlines()
    assert [line.split(" was not run")[0] for line in said] == [f"{tmp_path}/bad.ipynb: cell {k}" for k in (3, 5)]
    assert main([str(tmp_path / "good.ipynb")]) == 0


def test_hooks_download_nothing():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert [repository["repo"] for repository in hooks["repos"]] == ["local"]
    assert {hook["language"] for hook in hooks["repos"][0]["hooks"]} == {"system"}
