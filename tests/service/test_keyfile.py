"""The file of keys: read, watched, changed; and the command that changes it."""

from __future__ import annotations

import json
import logging
import os
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

import pytest

from service.errors import KeysError, StartError
from service.security import keyfile, keys, keys_command
from service.security.keyfile import KeyFile

ROOT = Path(__file__).parents[2]
HASH = "0" * 64


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


@pytest.fixture
def command(path: Path, capsys: pytest.CaptureFixture[str]):
    """Run `gpusq keys` on the file and return what it printed."""

    def run(*arguments: str, code: int = 0) -> str:
        name, *rest = arguments
        assert keys_command.main([name, "--file", str(path), *rest]) == code
        said = capsys.readouterr()
        return said.err if code else said.out

    return run


def test_a_new_key_is_printed_once_and_only_its_hash_is_kept(command, path: Path):
    secret = command("new", "--id", "ann").strip()

    assert secret.startswith("gpusq_")
    assert len(secret) == 6 + 43
    assert secret not in path.read_text()
    assert list(KeyFile(path).keys()) == [keys.fingerprint(secret)]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_keys_are_made_listed_and_revoked(command):
    command("new", "--id", "ann", "--rate", "2.5", "--burst", "4", "--quota", "100")
    options = ("--scope", "metrics", "--scope", "infer", "--model", "a", "--model", "b")
    command("new", "--id", "bob", *options, "--not-after", "2999-12-31")

    assert command("list").splitlines() == [
        "ann: infer,models; all models; 2.5/s, 4 at once; 100 a day; no end",
        "bob: infer,metrics; models a,b; no rate; no quota; until 2999-12-31",
    ]
    command("revoke", "--id", "ann")
    assert command("list").splitlines()[0].startswith("bob: ")


def test_a_key_whose_last_day_is_over_is_listed_as_ended(command, path: Path):
    key = keys.Key(id="ann", sha256=keys.fingerprint("any"), not_after=date(2020, 1, 1))
    keyfile.change(path, lambda _: keys.KeysFile(keys=(key,)))

    assert command("list").strip().endswith("ended with 2020-01-01")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("new", "--id", "ann"), "'ann' has a key"),
        (("new", "--id", "a b"), "--id: "),
        (("new", "--id", "x", "--rate", "0"), "--rate: "),
        (("new", "--id", "x", "--rate", "nan"), "--rate: "),
        (("new", "--id", "x", "--quota", "-1"), "--quota: "),
        (("new", "--id", "x", "--burst", "3"), "a burst needs a rate"),
        (("new", "--id", "x", "--not-after", "2020-01-01"), "or later, got 2020-01-01"),
        (("revoke", "--id", "bob"), "there are: ann"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line_and_changes_nothing(
    command, path: Path, arguments: tuple[str, ...], said: str
):
    command("new", "--id", "ann")
    before = path.read_bytes()

    line = command(*arguments, code=2)

    assert said in line
    assert line.count("\n") == 1
    assert path.read_bytes() == before


def test_a_change_keeps_the_group_that_could_read_and_the_link(command, path: Path, tmp_path: Path):
    real = tmp_path / "real.json"
    path.symlink_to(real)
    command("new", "--id", "ann")
    real.chmod(0o644)
    command("new", "--id", "bob")

    assert path.is_symlink()
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    assert sorted(tmp_path.iterdir()) == [path, real]


def test_changes_at_once_lose_none(path: Path):
    def add(number: int) -> None:
        key = keys.Key(id=f"k{number}", sha256=f"{number:064x}")
        keyfile.change(path, lambda file: keys.KeysFile(keys=(*file.keys, key)))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(add, range(20)))

    assert len(keyfile.read(path).keys) == 20


def entry(**changed: object) -> dict[str, object]:
    return {"id": "ann", "sha256": HASH, **changed}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "JSON"),
        ("[]", "the file"),
        ('{"keys": [', "JSON"),
        ({"keys": [entry(sha256="gpusq_secret")]}, "keys.0.sha256"),
        ({"keys": [entry(scopes=["infer", "admin"])]}, "keys.0.scopes.1"),
        ({"keys": [entry(scopes=[])]}, "keys.0.scopes"),
        ({"keys": [entry(models=[])]}, "keys.0.models"),
        ({"keys": [entry(not_after="soon")]}, "keys.0.not_after"),
        ({"keys": [entry(qouta=3)]}, "keys.0.qouta"),
        ({"keys": [entry(), entry(sha256="1" * 64)]}, "'ann' twice"),
        ({"keys": [entry(), entry(id="bob")]}, "sha256 once"),
    ],
)
def test_a_file_of_another_form_ends_the_start_with_its_place(path: Path, content, said: str):
    path.write_text(content if isinstance(content, str) else json.dumps(content))

    with pytest.raises(StartError, match="setting api_keys: ") as raised:
        KeyFile(path)

    assert said in str(raised.value)
    assert "gpusq_secret" not in str(raised.value)


def test_a_file_that_is_not_there_ends_the_start(path: Path):
    with pytest.raises(StartError, match=r"No such file.*'gpusq keys new'"):
        KeyFile(path)


def test_a_revoked_key_goes_and_a_new_one_comes_without_a_restart(command, path: Path):
    first = command("new", "--id", "ann").strip()
    file = KeyFile(path)
    second = command("new", "--id", "bob").strip()
    command("revoke", "--id", "ann")

    file.refresh()

    assert keys.find(file.keys(), first) is None
    assert keys.find(file.keys(), second).id == "bob"


@pytest.mark.parametrize("harm", [lambda p: p.write_text("{"), lambda p: p.unlink()])
def test_a_file_that_breaks_changes_nothing_and_is_said_once(command, path: Path, caplog, harm):
    secret = command("new", "--id", "ann").strip()
    file = KeyFile(path)
    whole = path.read_bytes()
    harm(path)

    for _ in range(3):
        file.refresh()

    assert keys.find(file.keys(), secret).id == "ann"
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "The keys of before stay" in caplog.text
    path.write_bytes(whole.replace(b"ann", b"bob"))
    file.refresh()
    assert keys.find(file.keys(), secret).id == "bob"


def test_a_file_that_did_not_change_is_not_read_again(command, path: Path):
    command("new", "--id", "ann")
    file = KeyFile(path)
    before = file.keys()

    file.refresh()

    assert file.keys() is before


@pytest.mark.parametrize(("mode", "said"), [(0o600, 0), (0o640, 0), (0o644, 1), (0o602, 1)])
def test_a_file_that_everyone_may_read_is_warned_of(
    command, path: Path, caplog, mode: int, said: int
):
    command("new", "--id", "ann")
    path.chmod(mode)

    KeyFile(path)

    assert caplog.text.count("chmod o-rw") == said


def test_a_folder_that_cannot_be_written_is_said(command, path: Path, tmp_path: Path):
    if os.geteuid() == 0:
        pytest.skip("nothing is forbidden to root")
    tmp_path.chmod(0o500)

    assert "cannot write" in command("new", "--id", "ann", code=2)


def test_a_folder_that_is_not_there_is_said(tmp_path: Path):
    with pytest.raises(KeysError, match="cannot open the folder"):
        keyfile.change(tmp_path / "none" / "keys.json", lambda file: file)


def test_gpusq_keys_runs_where_the_gateway_is_installed(path: Path):
    made = subprocess.run(
        [sys.executable, "-m", "compress", "keys", "new", "--file", str(path), "--id", "ann"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )

    assert keys.find(KeyFile(path).keys(), made.stdout.strip()).id == "ann"
    assert "not shown again" in made.stderr


def test_every_field_of_the_file_is_explained():
    page = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")

    assert [name for name in keys.Key.model_fields if f"`{name}`" not in page] == []


def test_a_key_is_replaced_by_a_copy_that_keeps_size_and_time(path: Path):
    entry = '{"keys": [{"id": "ann", "sha256": "%s"}]}'
    path.write_text(entry % HASH)
    before = path.stat()
    file = KeyFile(path)
    # Clocks of file systems go in steps.
    time.sleep(0.02)
    path.write_text(entry % ("1" * 64))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    file.refresh()

    assert list(file.keys()) == ["1" * 64]
