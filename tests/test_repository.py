"""What counts as a checkout, and what is done without one."""

import pooch
import pytest

from mfkit import repository
from mfkit.movielens import data_dir


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Where the package lies: what looks like a checkout in all respects."""
    for folder in ("notebooks", "figures"):
        (tmp_path / folder).mkdir()
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "mfkit"\n')
    monkeypatch.setattr(repository, "PLACE", tmp_path)
    return tmp_path


def test_a_checkout_is_recognised_by_what_it_holds(place):
    assert repository.find() == place
    assert repository.root() == place


@pytest.mark.parametrize("project", ['[project]\nname = "other"\n', "[tool.ruff]\n", "not = toml = at all"])
def test_somebody_elses_pyproject_makes_none(place, project):
    """As when a careless package leaves its own in site-packages."""
    (place / "pyproject.toml").write_text(project)
    assert repository.find() is None


@pytest.mark.parametrize("folder", ["notebooks", "figures"])
def test_nor_does_a_source_archive_without_notebooks_or_figures(place, folder):
    (place / folder).rmdir()
    assert repository.find() is None


def test_a_folder_without_pyproject_is_none_and_the_error_says_what_is_needed(place):
    (place / "pyproject.toml").unlink()
    with pytest.raises(repository.NoRepositoryError, match=f"needs a checkout .* runs from {place}.\nClone .* make"):
        repository.root()


def test_ratings_are_kept_in_the_checkout_or_else_in_the_users_cache(place, monkeypatch):
    monkeypatch.delenv("MFKIT_DATA")
    assert data_dir() == place / "data"
    (place / "pyproject.toml").unlink()
    assert str(data_dir()) == str(pooch.os_cache("mfkit"))
