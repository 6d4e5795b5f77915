import pytest
import torch

from compress.errors import CheckpointError
from compress.run import Run, write_atomically


def test_a_run_is_found_again_by_the_same_recipe(tmp_path):
    Run(tmp_path / "run", "one").save("state", {"weight": torch.arange(3), "step": 4})

    state = Run(tmp_path / "run", "one").load("state")

    assert torch.equal(state["weight"], torch.arange(3))
    assert state["step"] == 4


def test_a_run_of_another_recipe_is_refused_with_both_ways_out(tmp_path):
    Run(tmp_path, "one").save("state", {})

    with pytest.raises(CheckpointError, match=r"another recipe.*--restart.*another 'run' folder"):
        Run(tmp_path, "two")
    assert Run(tmp_path, "one").load("state") == {}


@pytest.mark.parametrize("digest", ["one", "two"])
def test_restart_throws_the_earlier_run_away(tmp_path, digest):
    Run(tmp_path / "run", "one").save("state", {})

    run = Run(tmp_path / "run", digest, restart=True)

    assert run.load("state") is None
    assert [entry.name for entry in (tmp_path / "run").iterdir()] == ["recipe.digest"]


@pytest.mark.parametrize("restart", [False, True])
def test_a_folder_with_somebody_elses_files_never_becomes_a_run(tmp_path, restart):
    precious = tmp_path / "thesis.txt"
    precious.write_text("years of work")

    with pytest.raises(CheckpointError, match="found other files"):
        Run(tmp_path, "one", restart=restart)

    assert precious.read_text() == "years of work"


def test_what_was_never_saved_and_what_was_dropped_is_none(tmp_path):
    run = Run(tmp_path, "one")
    run.save("state", {"step": 1})

    run.drop("state")
    run.drop("state")

    assert run.load("state") is None
    assert run.load("other") is None


@pytest.mark.parametrize("data", [b"", b"not a checkpoint", b"\x80\x02garbage"])
def test_a_damaged_file_is_named_with_the_remedy(tmp_path, data):
    run = Run(tmp_path, "one")
    (tmp_path / "state.pt").write_bytes(data)

    with pytest.raises(CheckpointError, match=r"cannot read .*state\.pt.*Delete it"):
        run.load("state")


def test_a_cut_off_file_is_refused(tmp_path):
    run = Run(tmp_path, "one")
    run.save("state", {"weight": torch.randn(1000)})
    path = tmp_path / "state.pt"
    path.write_bytes(path.read_bytes()[:-200])

    with pytest.raises(CheckpointError, match="cannot read"):
        run.load("state")


def test_no_code_runs_from_a_checkpoint(tmp_path):
    # A pickle may name any function; only tensors and plain values are taken.
    run = Run(tmp_path, "one")
    torch.save({"state": tmp_path}, tmp_path / "state.pt")

    with pytest.raises(CheckpointError, match="cannot read"):
        run.load("state")


def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def fail(unfinished):
        unfinished.write_text("half of the n")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, fail)

    assert [entry.name for entry in tmp_path.iterdir()] == ["file.txt"]
    assert path.read_text() == "old"


def test_the_new_file_appears_whole_at_the_end(tmp_path):
    path = tmp_path / "file.txt"

    def write(unfinished):
        unfinished.write_text("new")
        assert not path.exists()

    write_atomically(path, write)

    assert path.read_text() == "new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.txt"]


def test_json_is_readable_and_ends_with_a_line(tmp_path):
    path = Run(tmp_path, "one").write_json("facts", {"a": [1, 2]})

    assert path.read_text() == '{\n  "a": [\n    1,\n    2\n  ]\n}\n'


def test_what_a_killed_writer_left_is_swept_away(tmp_path):
    Run(tmp_path, "one").save("state", {"step": 1})
    (tmp_path / ".state.pt.4242").write_bytes(b"half of a checkpoint")

    run = Run(tmp_path, "one")

    assert not (tmp_path / ".state.pt.4242").exists()
    assert run.load("state") == {"step": 1}


def test_a_folder_where_nothing_was_computed_is_taken_by_a_mended_recipe(tmp_path):
    Run(tmp_path / "run", "refused")
    (tmp_path / "run" / "tensorboard").mkdir()

    Run(tmp_path / "run", "mended").save("state", {})

    assert not (tmp_path / "run" / "tensorboard").exists()

    with pytest.raises(CheckpointError, match="another recipe"):
        Run(tmp_path / "run", "refused")
