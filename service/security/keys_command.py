"""The command ``gpusq keys``: make, list and revoke API keys in a file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import date, datetime, timezone
from pathlib import Path

from pydantic import ValidationError

from service.errors import KeysError
from service.security import keyfile, keys
from service.security.keys import Key, KeysFile, Scope

_EXAMPLE = """\
example:
  gpusq keys new --file keys.json --id camera-7 --rate 5 --quota 10000
  GPUSQ_API_KEYS=keys.json gpusq serve"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0, or 2 after one line that says what was wrong and what to do.
    """
    arguments = parser().parse_args(argv)
    try:
        arguments.command(arguments)
    except KeysError as error:
        print(f"gpusq keys: {error}", file=sys.stderr)
        return 2
    return 0


def parser() -> argparse.ArgumentParser:
    """Return what understands the command's arguments."""
    made = argparse.ArgumentParser(
        prog="gpusq keys",
        description="Make, list and revoke the API keys of a gateway.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = made.add_subparsers(metavar="COMMAND", required=True)
    file = argparse.ArgumentParser(add_help=False)
    file.add_argument(
        "--file", type=Path, required=True, metavar="F", help="the file, as in GPUSQ_API_KEYS"
    )
    _add_new(commands.add_parser("new", parents=[file], help="make a key and print it, once"))
    listing = commands.add_parser("list", parents=[file], help="say whose keys there are")
    listing.set_defaults(command=_list)
    revoking = commands.add_parser("revoke", parents=[file], help="take a key out of the file")
    revoking.add_argument("--id", required=True, help="whose")
    revoking.set_defaults(command=_revoke)
    return made


def _add_new(new: argparse.ArgumentParser) -> None:
    new.add_argument("--id", required=True, help="who holds it; errors and metrics name it")
    new.add_argument(
        "--scope",
        action="append",
        choices=[scope.value for scope in Scope],
        help="what it is for; may be repeated (infer and models)",
    )
    new.add_argument(
        "--model", action="append", metavar="NAME", help="only this model; may be repeated (all)"
    )
    new.add_argument("--rate", type=float, metavar="R", help="requests a second (no limit)")
    new.add_argument("--burst", type=int, metavar="N", help="how many at once (those of a second)")
    new.add_argument("--quota", type=int, metavar="N", help="requests a day, UTC (no limit)")
    new.add_argument(
        "--not-after",
        type=date.fromisoformat,
        metavar="DATE",
        help="the last day on which it is valid, UTC, such as 2027-12-31 (no end)",
    )
    new.set_defaults(command=_new)


def _new(arguments: argparse.Namespace) -> None:
    if arguments.not_after is not None and arguments.not_after < _today():
        raise KeysError(
            f"--not-after: expected today, {_today()} by UTC, or later, got {arguments.not_after}."
        )
    secret = keys.generate()
    chosen = {
        "id": arguments.id,
        "sha256": keys.fingerprint(secret),
        "scopes": arguments.scope,
        "models": arguments.model,
        "rate": arguments.rate,
        "burst": arguments.burst,
        "quota": arguments.quota,
        "not_after": arguments.not_after,
    }
    try:
        key = Key.model_validate({name: v for name, v in chosen.items() if v is not None})
    except ValidationError as error:
        raise KeysError(_said(error)) from error

    def add(before: KeysFile) -> KeysFile:
        if any(known.id == key.id for known in before.keys):
            raise KeysError(
                f"expected a new --id, {key.id!r} has a key. Revoke it first, or choose another."
            )
        return KeysFile(keys=(*before.keys, key))

    keyfile.change(arguments.file, add)
    print(secret)
    print("This key is not shown again; the file has its hash.", file=sys.stderr)


def _said(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    if not first["loc"]:
        return f"{first['msg']}."
    return f"--{first['loc'][0]}: {first['msg']}, got {first['input']!r}."


def _until(last: date | None) -> str:
    if last is None:
        return "no end"
    return f"until {last}" if last >= _today() else f"ended with {last}"


def _today() -> date:
    return datetime.now(timezone.utc).date()


def _list(arguments: argparse.Namespace) -> None:
    for key in keyfile.read(arguments.file).keys:
        said = [
            ",".join(sorted(scope.value for scope in key.scopes)),
            "all models" if key.models is None else f"models {','.join(key.models)}",
            "no rate" if key.rate is None else f"{key.rate:g}/s, {key.most_at_once} at once",
            "no quota" if key.quota is None else f"{key.quota} a day",
            _until(key.not_after),
        ]
        print(f"{key.id}: {'; '.join(said)}")


def _revoke(arguments: argparse.Namespace) -> None:
    def remove(before: KeysFile) -> KeysFile:
        left = tuple(key for key in before.keys if key.id != arguments.id)
        if len(left) == len(before.keys):
            known = ", ".join(key.id for key in before.keys) or "none"
            raise KeysError(f"there is no key {arguments.id!r}; there are: {known}.")
        return KeysFile(keys=left)

    if not arguments.file.exists():
        raise KeysError(f"there is no file {arguments.file}. Correct --file.")
    keyfile.change(arguments.file, remove)
