"""The command gpusq predict against the real service with real networks."""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import pytest
from PIL import Image

from compress.__main__ import main
from gpusq.drawing import colour
from service.app import create_app
from service.executors import choice
from service.settings import Settings
from tests import finding
from tests.conftest import Serve, encoded
from tests.gpusq.scripted import Says, problem, running

ROOT = Path(__file__).parents[2]
THINGS: dict[str, finding.Box] = {"red": (20, 24, 120, 100), "green": (150, 80, 301, 221)}
Predict = Callable[..., tuple[int, list[str], list[str]]]


@pytest.fixture(scope="module")
def url(
    scene_repository: Path, serve: Serve, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    routes = tmp_path_factory.mktemp("routes") / "routes.json"
    routes.write_text('{"aliases": {"paint": {"colours": 1}}}')
    settings = Settings(
        repository=scene_repository, executor="onnxruntime", deadline_s=30, routes=routes
    )
    with serve(create_app(settings, choice.load(settings))) as client:
        yield str(client.base_url)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of two pictures, and of what is none."""
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.new("RGB", (64, 48), "red").save(folder / "a red one.jpg")
    finding.scene((320, 240), THINGS).save(folder / "scene.png")
    (folder / "notes.txt").write_text("none")
    return folder


@pytest.fixture
def predict(monkeypatch, capsys: pytest.CaptureFixture[str], url: str) -> Predict:
    """Run the command, and return its exit code and the lines of both streams."""
    monkeypatch.setenv("GPUSQ_URL", url)

    def run(*arguments: object) -> tuple[int, list[str], list[str]]:
        try:
            code = main(["predict", *map(str, arguments)])
        except SystemExit as ended:
            code = int(str(ended.code))
        said = capsys.readouterr()
        return code, said.out.splitlines(), said.err.splitlines()

    return run


def test_a_picture_is_classified_and_shown_as_a_table(predict: Predict, photos: Path):
    code, out, err = predict(photos / "a red one.jpg", "--top-k", 2)

    assert (code, err) == (0, [])
    assert out[0].startswith(f"{photos}/a red one.jpg: 64 x 48, colours 1, ")
    assert out[1] == "  score  label  id"
    assert [line.split()[1] for line in out[2:]] == ["red", "black"]


def test_the_task_is_that_of_the_model(predict: Predict, photos: Path):
    code, out, _ = predict(photos / "scene.png", "--model", "shapes", "--min-score", 0.7)

    assert code == 0
    assert out[1].split() == ["score", "label", "id", "left", "top", "right", "bottom"]
    assert [line.split()[:2] for line in out[2:]] == [["0.900", "red"]]


def test_an_alias_is_asked_like_a_model(predict: Predict, photos: Path):
    code, out, err = predict(photos / "a red one.jpg", "--model", "paint")

    assert (code, err) == (0, [])
    assert out[0].startswith(f"{photos}/a red one.jpg: 64 x 48, colours 1, ")


def test_a_folder_is_all_its_pictures_in_order_and_the_whole_time_is_said(
    predict: Predict, photos: Path
):
    code, out, err = predict(photos, "--task", "segment")

    assert (code, err) == (0, [])
    heads = [line.split(":")[0] for line in out if " x " in line]
    assert heads == [f"{photos}/a red one.jpg", f"{photos}/scene.png"]
    assert out[-1].startswith("2 pictures in ")


def test_json_has_a_line_each_picture_with_the_answer_or_the_problem(
    predict: Predict, photos: Path
):
    pictures = [photos / "scene.png", photos / "notes.txt", photos / "none.png"]

    code, out, err = predict("--json", "--task", "segment", *pictures)

    assert code == 1
    found, refused, missing = map(json.loads, out)
    assert [line["name"] for line in (found, refused, missing)] == list(map(str, pictures))
    png = base64.b64decode(found["answer"]["class_map"])
    assert png.startswith(b"\x89PNG")
    assert found["answer"]["image"] == {"width": 320, "height": 240}
    assert (refused["problem"]["status"], refused["problem"]["code"]) == (415, "unsupported_media")
    assert missing["problem"]["code"] == "unreadable_picture"
    assert len(err) == 2


def test_one_picture_that_fails_keeps_none_of_the_others_from_an_answer(
    predict: Predict, photos: Path
):
    code, out, err = predict(photos / "notes.txt", photos / "none.jpg", photos / "scene.png")

    assert code == 1
    assert out[0].startswith(f"{photos}/scene.png: 320 x 240")
    assert out[-1].endswith(", 2 of them failed")
    assert err[0].startswith(f"gpusq: {photos}/notes.txt: Expected a JPEG, PNG or WebP picture")
    assert err[1].startswith(f"gpusq: {photos}/none.jpg cannot be read: No such file")


def test_a_folder_without_pictures_is_said(predict: Predict, tmp_path: Path):
    code, out, err = predict(tmp_path)

    assert (code, out) == (1, [])
    assert err == [
        f"gpusq: {tmp_path}: expected a folder with JPEG, PNG or WebP files, there is none."
    ]


def test_masks_and_boxes_are_drawn_beside_the_pictures_and_not_over_them(
    predict: Predict, photos: Path
):
    before = (photos / "scene.png").read_bytes()

    for _ in range(2):
        code, out, _ = predict(photos, "--task", "detect", "--draw", photos)

        assert code == 0
        assert f"  drawn: {photos}/scene.drawn.png" in out
        assert sorted(path.name for path in photos.iterdir()) == [
            *("a red one.drawn.png", "a red one.jpg", "notes.txt", "scene.drawn.png", "scene.png")
        ]
    assert (photos / "scene.png").read_bytes() == before
    with Image.open(photos / "scene.drawn.png") as drawn:
        assert drawn.size == (320, 240)
        # The rim of the box, the middle of the mask, and a corner of the box outside of the mask.
        assert drawn.getpixel((150, 150)) == colour(1)
        red, green, blue = colour(1)
        middle = drawn.getpixel((225, 160))
        assert isinstance(middle, tuple)
        expected = (0.45 * red, 0.55 * 255 + 0.45 * green, 0.45 * blue)
        assert max(abs(a - b) for a, b in zip(middle, expected, strict=True)) <= 1
        assert drawn.getpixel((296, 216)) == (0, 0, 0)


def test_boxes_are_drawn_where_a_model_has_no_masks(predict: Predict, photos: Path):
    drawn = photos / "drawn"

    code, _, err = predict(photos / "scene.png", "--model", "shapes-boxes", "--draw", drawn)

    assert (code, err) == (0, [])
    with Image.open(drawn / "scene.drawn.png") as picture:
        assert picture.getpixel((225, 160)) == (0, 255, 0)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--model", "none"), "There is no model 'none'; there are areas, areas-cut, colours"),
        (("--top-k", "0"), "expected a whole number from 1 on, got '0'"),
        (("--min-score", "2"), "expected a number from 0 to 1, got '2'"),
        (("--timeout", "soon"), "expected seconds above 0, got 'soon'"),
        (("--task", "detect", "--top-k", "3"), "--top-k is for --task classify, this is detect"),
        (("--min-score", "0.5"), "--min-score is for --task detect, this is classify"),
        (("--url", "ftp://x"), "--url: expected"),
        (("--draw", __file__), "File exists"),
    ],
)
def test_a_command_that_makes_no_sense_ends_with_two(predict: Predict, photos, arguments, said):
    code, out, err = predict(photos, *arguments)

    assert (code, out) == (2, [])
    assert said in err[-1]


def test_a_key_that_cannot_be_sent_is_not_shown(predict: Predict, photos, monkeypatch):
    monkeypatch.setenv("GPUSQ_API_KEY", "s3cret key")

    code, _, err = predict(photos)

    assert code == 2
    assert "api_key" in err[0]
    assert "s3cret" not in err[0]


def test_a_service_that_is_not_there_is_said_with_how_to_name_another(predict: Predict, photos):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

    code, out, err = predict(photos, "--url", f"http://127.0.0.1:{port}")

    assert (code, out) == (1, [])
    assert f"No service was reached at http://127.0.0.1:{port}" in err[0]
    assert "--url or GPUSQ_URL" in err[0]


def test_a_model_that_is_unavailable_is_said_with_its_reason(predict: Predict, photos: Path):
    broken = {"name": "broken", "state": "unavailable", "default": False, "reason": "no network"}
    limits = {"max_body_bytes": 1, "max_pixels": 1}
    with running() as script:
        script.says = [Says(said={"models": [broken], "limits": limits})]
        by_name = predict(photos, "--url", script.url, "--model", "broken")
        by_task = predict(photos, "--url", script.url)

    assert by_name[:2] == by_task[:2] == (1, [])
    assert "'broken' is unavailable: no network" in by_name[2][0]
    assert "no model that can be asked" in by_task[2][0]


def command(*arguments: object, absent: str = "torch") -> subprocess.CompletedProcess[str]:
    """Run the command by itself, where one package is not installed."""
    script = f"import sys; sys.modules[{absent!r}] = None; sys.argv[0] = 'gpusq'\n"
    script += "from compress.__main__ import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", script, "predict", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_runs_by_itself_without_torch(url: str, photos: Path):
    odd = photos / "ä\udcff.png"
    odd.write_bytes(encoded(Image.new("RGB", (8, 8), "blue")))

    ran = command(odd, photos / "notes.txt", "--url", url)

    assert ran.returncode == 1
    assert ran.stdout.startswith(rf"{photos}/\xe4\udcff.png: 8 x 8, colours 1, ")
    assert "Traceback" not in ran.stderr
    assert ran.stderr.count("\n") == 1


def test_where_httpx_is_missing_the_extra_is_named():
    script = "import sys; sys.modules['httpx'] = None; import gpusq"

    imported = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    ran = command("a.jpg", absent="httpx")

    assert "pip install 'gpusq-vit[client]'" in imported.stderr.splitlines()[-1]
    assert ran.returncode == 2
    assert ran.stderr == (
        "gpusq: asking a service needs httpx. Install it: pip install 'gpusq-vit[client]', or "
        "'.[client]' in the checkout\n"
    )


def test_help_has_an_example():
    shown = command("--help").stdout

    assert "gpusq predict photo.jpg" in shown
    assert "GPUSQ_API_KEY" in shown


def test_what_is_named_in_full_asks_nothing_but_the_picture(photos: Path, capsys):
    with running() as script:
        arguments = ("--task", "classify", "--model", "deit-tiny", "--url", script.url)
        assert main(["predict", str(photos / "scene.png"), *arguments]) == 0
    assert [came.target for came in script.came] == ["/v1/classify?model=deit-tiny"]
    assert "tabby" in capsys.readouterr().out


def test_a_folder_for_drawings_that_is_a_file_is_said_plainly(predict: Predict, photos: Path):
    code, _, err = predict(photos / "scene.png", "--draw", photos / "notes.txt")

    assert code == 2
    assert err == [f"gpusq: {photos}/notes.txt: File exists. Name another file or folder."]


def test_an_address_that_is_none_is_called_what_the_command_calls_it(predict: Predict, photos):
    code, _, err = predict(photos, "--url", "localhost")

    assert code == 2
    assert err[0].startswith("gpusq: --url: expected 'http://127.0.0.1:8000' or the like")


def test_the_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])

    assert ended.value.code == 0
    assert capsys.readouterr().out == f"gpusq-vit {metadata.version('gpusq-vit')}\n"


def test_a_key_that_may_not_list_models_is_told_what_makes_that_needless(
    predict: Predict, photos: Path
):
    with running() as script:
        script.says = [problem(403, "forbidden")]
        code, _, err = predict(photos / "scene.png", "--url", script.url)

    assert code == 1
    assert "With --task nothing is asked but about pictures" in err[0]


def test_a_name_that_is_no_text_is_still_json(predict: Predict, photos: Path):
    path = Path(os.fsdecode(os.fsencode(photos) + b"/bad\xff.jpg"))
    path.write_bytes((photos / "a red one.jpg").read_bytes())

    code, out, _ = predict(path, "--json")

    assert code == 0
    assert json.loads(out[0])["name"].endswith("bad\\xff.jpg")
    assert "\\udc" not in out[0]
