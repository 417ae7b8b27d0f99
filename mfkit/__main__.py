"""python -m mfkit reproduce [NN ...] [--update]     run notebooks, compare every record, print the claims
python -m mfkit reproduce NN --set name=value --out DIR        run one with other parameters; nothing committed changes
python -m mfkit play                              working copies of the notebooks in play/, for JupyterLab
python -m mfkit keep play/NN_question.ipynb       make a working copy the committed notebook, run anew
python -m mfkit claims                            print the committed claims
python -m mfkit new NN_my_question                lay out a notebook to fill in, and link it in the README
python -m mfkit book                              all notebooks, claims, glossary and API as web pages in book/_build
python -m mfkit doctor module:build               diagnose what the reader's function builds, see mfkit.doctor
python -m mfkit sizes --users M --items N --ratings R --factors D      what a problem of these sizes will need
python -m mfkit eject                             print standalone/mf.py: one file of plain torch, to copy
python -m mfkit cite 05_phase_diagram             what to write in a paper about one figure"""

import sys
import traceback
from argparse import ArgumentParser, ArgumentTypeError, Namespace, RawTextHelpFormatter
from decimal import Decimal
from importlib.util import find_spec
from io import TextIOWrapper
from pathlib import Path
from typing import NoReturn

from mfkit import repository

STATUS = """exit status:
  0  fine
  1  something differs from what is committed, a notebook raised, or the doctor's finding is high
  2  it cannot run: wrong usage, no checkout of the repository, a package that is not installed, a full disk, a folder
     that cannot be written to, a build() that raises

All but doctor, eject and sizes work on the checkout of the repository that mfkit runs from."""

PACKAGES = {  # of the dev extra, and who needs them
    "reproduce": ("ipykernel", "nbclient", "nbformat", "papermill"),
    "play": ("nbclient", "nbformat", "papermill"),
    "keep": ("ipykernel", "nbclient", "nbformat", "papermill"),
    "new": ("nbclient", "nbformat"),
    "book": ("jupyter_book", "nbformat", "sphinx-mathjax-offline"),
    "claims": (),
    "cite": ("yaml",),
}


class Parser(ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {' '.join(message.split())}; see --help\n")


def command_line() -> Parser:
    parser = Parser(prog="python -m mfkit", description=__doc__, epilog=STATUS, formatter_class=RawTextHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("reproduce", help="run the notebooks and compare what they make with what is committed")
    run.add_argument("notebooks", nargs="*", metavar="NN", help="numbers or names of notebooks; all when none is given")
    run.add_argument("--update", action="store_true", help="put new notebooks, figures and records in place")
    run.add_argument("--set", action="append", metavar="NAME=VALUE", help="another value of a notebook's parameter")
    run.add_argument("--out", type=Path, metavar="DIR", help="where a run with other parameters goes")
    commands.add_parser("play", help="lay out working copies of the notebooks, which git ignores")
    commands.add_parser("keep", help="keep a working copy").add_argument(
        "path", type=Path, metavar="play/NN_question.ipynb"
    )
    commands.add_parser("claims", help="print the table of committed claims")
    commands.add_parser("new", help="lay out a notebook").add_argument("name", metavar="NN_my_question")
    commands.add_parser("book", help="make web pages of all notebooks")
    commands.add_parser("cite", help="what to write in a paper about one figure").add_argument("id", metavar="FIGURE")
    commands.add_parser("eject", help="print matrix factorization in one file of plain torch")
    examine = commands.add_parser("doctor", help="what is wrong with a model of yours")
    examine.add_argument("target", metavar="module:build")
    sizes = commands.add_parser("sizes", help="the memory and time that a problem of these sizes will need")
    for name, metavar in (("users", "M"), ("items", "N"), ("ratings", "R"), ("factors", "D")):
        sizes.add_argument(f"--{name}", type=size, required=True, metavar=metavar)
    sizes.add_argument("--batch", type=size, metavar="B", help="batch size; 512, the recipe's largest")
    sizes.add_argument("--optimizer", default="adam", help="adam (default), adamw, momentum or sgd")
    return parser


def size(text: str) -> int:
    """1000, 1,000, 1_000 or 1e3."""
    wanted = f"must be a whole number, e.g. 25000000 or 25e6, got {text!r}"
    try:
        number = Decimal(text.replace(",", ""))
    except ArithmeticError:
        raise ArgumentTypeError(wanted) from None
    if not number.is_finite() or number != number.to_integral_value():
        raise ArgumentTypeError(wanted)
    return int(number)


def main(arguments: list[str] | None = None) -> int:
    """The exit status, as STATUS says; SystemExit(2), after a line on stderr, for what cannot run."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a terminal without letters such as ± shows a question mark
            stream.reconfigure(errors="replace")
    parser = command_line()
    options = parser.parse_args(arguments)
    if options.command == "doctor":
        return examine(options.target)
    if options.command == "sizes":
        return print_sizes(options, parser)
    if options.command == "eject":
        print(Path(__file__).with_name("standalone.py").read_text(encoding="utf-8"), end="")
        return 0
    try:
        repository.root()
    except repository.NoRepositoryError as error:
        parser.exit(2, f"{parser.prog} {options.command} {error}\n")
    missing = [name for name in PACKAGES[options.command] if find_spec(name) is None]
    if missing:
        remedy = f'pip install -e ".[dev]" in {repository.root()}, or make there'
        parser.exit(2, f"{parser.prog} {options.command} needs {', '.join(missing)}, not installed here: {remedy}\n")
    try:
        return publish(options, parser)
    except OSError as error:  # a full disk, a folder that cannot be written to
        parser.exit(2, f"{parser.prog} {options.command}: {error}. Every file is whole, old or new; run it again\n")


def publish(options: Namespace, parser: Parser) -> int:
    """The commands of mfkit.lab. Each imports what it needs when it is chosen."""
    if options.command == "claims":
        from mfkit.lab import records

        records.print_claims(records.load(repository.root() / "figures"))
        return 0
    if options.command == "book":
        from mfkit.lab import book

        out = repository.root() / "book" / "_build"
        book.build(out)
        print(out / "index.html")
        return 0
    if options.command == "cite":
        from mfkit.lab import cite

        try:
            print(cite.citation(options.id))
        except ValueError as error:
            parser.exit(2, f"{parser.prog} cite: {error}\n")
        return 0
    try:
        return notebooks(options)
    except ValueError as error:
        parser.error(str(error))


def notebooks(options: Namespace) -> int:
    """The commands that run or lay out notebooks. ValueError for what cannot be meant."""
    from mfkit.lab import play, runner

    if options.command == "new":
        runner.new(options.name)
        return 0
    if options.command == "play":
        print(play.copies())
        return 0
    if options.command == "keep":
        return play.keep(options.path.resolve())
    chosen = runner.choose(options.notebooks)
    if not options.set and not options.out:
        return runner.reproduce(chosen, update=options.update)
    if len(chosen) != 1 or options.update or not options.out:
        raise ValueError("--set needs one notebook and --out, and no --update")
    return play.variant(chosen[0], play.settings(options.set or []), options.out.resolve())


def print_sizes(options: Namespace, parser: Parser) -> int:
    """What a problem of these sizes will need."""
    from mfkit import sizes

    given = {name: value for name, value in vars(options).items() if name != "command"}
    try:
        print(sizes.report(**given))
    except ValueError as error:
        parser.exit(2, f"{parser.prog} sizes: {error}; see --help\n")
    return 0


def examine(target: str) -> int:
    """The doctor on what the reader's function builds, looked for in the current folder."""
    from mfkit import doctor

    try:
        return doctor.main(target)
    except Exception:  # the reader's own code: where it raised is what they need to see
        traceback.print_exc()
        return 2


if __name__ == "__main__":
    sys.exit(main())
