"""What the subcommands' parsers are made of."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

Command: TypeAlias = Callable[[argparse.Namespace], None]
# argparse gives what add_subparsers() returns no public name.
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001


def add_command(
    commands: Commands,
    name: str,
    command: Command,
    summary: str,
    example: str,
) -> argparse.ArgumentParser:
    """Add a subcommand, with an example in its help."""
    parser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=command)
    return parser


def output_file(text: str) -> Path:
    """Refuse a file that could not be written, before anything is computed for it."""
    path = Path(text)
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(
            f"expected a file in a folder that is there, got {text!r}; make {path.parent} first"
        )
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"expected a file, got the folder {text!r}")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text!r} cannot be written; name another file")
    return path


def whole_number(text: str) -> int:
    """Read a whole number from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, got {text!r}")
    return int(text)


def add_repository(parser: argparse.ArgumentParser) -> None:
    """Add where a model goes and what it is called there."""
    parser.add_argument(
        "--repository",
        type=Path,
        required=True,
        metavar="DIR",
        help="the folder of models that gpusq serve or a Triton reads; made when missing",
    )
    parser.add_argument("--name", help="of the model; that of the run or the folder if not given")


def add_builder_options(parser: argparse.ArgumentParser) -> None:
    """Add what every command that builds plans lets people choose."""
    parser.add_argument(
        "--level",
        type=int,
        choices=range(6),
        help="how long the builder looks for faster kernels",
    )
    parser.add_argument(
        "--own-kernels",
        action="store_true",
        help="use TensorRT's own kernels alone: cuBLAS and cuDNN are not called",
    )
