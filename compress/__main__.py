"""The command ``gpusq``. Each subcommand loads only what it needs: serving needs no torch."""

from __future__ import annotations

import argparse
import importlib.util
import logging
import os
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from compress import bench_command, predict_command
from compress.arguments import (
    Commands,
    add_builder_options,
    add_command,
    add_repository,
    output_file,
    whole_number,
)
from compress.errors import CompressError
from contract import telemetry
from contract.errors import ContractError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0, or 2 after one line that says what was wrong and what to do.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["serve"]:
        _become("service", arguments[1:])
    if arguments[:1] == ["keys"]:
        _become("service.security", arguments[1:])
    parsed = _parser().parse_args(arguments)
    telemetry.switch_off()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    if not sys.stderr.isatty():
        # Bars of transformers and of its hub; ours know by themselves.
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        parsed.command(parsed)
    except (CompressError, ContractError) as error:
        # What libraries say inside it may take several lines.
        print(f"gpusq: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        print(
            f"gpusq: this command needs {error.name}. Install it with: "
            "pip install '.[compress]' in the checkout",
            file=sys.stderr,
        )
        return 2
    except OSError as error:
        print(f"gpusq: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        goes_on = "; it goes on where it was last saved" if arguments[:1] == ["compress"] else ""
        print(f"gpusq: stopped{goes_on}", file=sys.stderr)
        return 130
    return 0


def _become(module: str, arguments: list[str]) -> None:
    if importlib.util.find_spec("uvicorn") is None:
        print(
            "gpusq: serving needs uvicorn. Install it: pip install '.[service]' in the checkout",
            file=sys.stderr,
        )
        sys.exit(2)
    # Becomes the gateway instead of importing it: the two halves share no process, and signals
    # reach it directly. Safe path: not whatever the working directory calls "service".
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}
    command = [sys.executable, "-m", module, *arguments]
    os.execve(sys.executable, command, environment)  # noqa: S606


def _compress(arguments: argparse.Namespace) -> None:
    from compress import pipeline, recipe_file, report  # noqa: PLC0415

    loaded = recipe_file.load(arguments.recipe, arguments.set)
    version = pipeline.compress(loaded, restart=arguments.restart)
    if version is not None:
        print(report.headline(loaded.run))
        print(f"Report: {loaded.run / 'report.html'}")
        print(f"Model:  {version}")


def _ablate(arguments: argparse.Namespace) -> None:
    from compress import ablate, recipe_file  # noqa: PLC0415

    if arguments.list:
        width = ablate.name_width(ingredient.name for ingredient in ablate.INGREDIENTS)
        for ingredient in ablate.INGREDIENTS:
            print(f"{ingredient.name:{width}}{' '.join(ingredient.changes)}")
        return
    loaded = recipe_file.load(arguments.recipe, arguments.set)
    table = ablate.run(
        loaded, seeds=arguments.seeds, only=arguments.only, restart=arguments.restart
    )
    if table is None:
        return
    print(table.text())
    if arguments.json:
        arguments.json.write_text(table.json(), encoding="utf-8")


def _evaluate(arguments: argparse.Namespace) -> None:
    import json  # noqa: PLC0415

    from compress import bundles, evaluate, reference  # noqa: PLC0415
    from compress.tasks import TASKS  # noqa: PLC0415

    model, card = bundles.find(arguments.model)
    task = TASKS[card.task]
    pictures = task.opened(arguments.data, card.labels, card.preprocessing)
    ask = reference.onnx_asked(model, classes=len(card.labels))
    score = evaluate.evaluate(ask, pictures, task.metric(pictures), "evaluating")
    runtime = reference.name()
    summary = {**score.plain(), "runtime": runtime}
    if arguments.json:
        arguments.json.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    print(score.text())
    print(f"by {runtime}")
    for path, reason in score.skipped.items():
        print(f"skipped {path}: {reason}")


def _publish(arguments: argparse.Namespace) -> None:
    from compress.plan import repository  # noqa: PLC0415
    from compress.plan.bundle import name_of  # noqa: PLC0415

    version = repository.publish(
        arguments.bundle,
        arguments.repository,
        arguments.name or name_of(arguments.bundle),
        backend=arguments.backend,
        max_batch_size=arguments.max_batch,
    )
    print(version)


def _plan(arguments: argparse.Namespace) -> None:
    from compress.plan import planning  # noqa: PLC0415
    from compress.plan.build import Options  # noqa: PLC0415
    from compress.plan.bundle import name_of  # noqa: PLC0415

    options = Options(
        body=arguments.body,
        sparse=not arguments.dense,
        max_batch=arguments.max_batch,
        best_batch=arguments.best_batch or arguments.max_batch,
        level=arguments.level,
        own_kernels=arguments.own_kernels,
    )
    order = planning.Order(
        bundle=arguments.bundle,
        repository=arguments.repository,
        name=arguments.name or name_of(arguments.bundle),
        options=options,
        pictures=arguments.pictures,
        search=arguments.search,
        instances=arguments.instances,
    )
    version, checked = planning.plan(order)
    print(checked.text())
    print(f"Plan:   {version}")


def _count_networks(arguments: argparse.Namespace) -> None:
    from compress import count  # noqa: PLC0415

    table = count.run()
    print(table.text())
    if arguments.json:
        arguments.json.write_text(table.json(), encoding="utf-8")


def _version() -> str:
    try:
        return metadata.version("gpusq-vit")
    except metadata.PackageNotFoundError:
        # Run from a copy of the tree, as on a Jetson.
        return "not installed"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gpusq",
        description="Make Vision Transformers (DeiT, Swin and others) 2:4 or 4:8 sparse and INT8, "
        "INT4 or FP8, and serve them.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"gpusq-vit {_version()}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    adders = (
        *(_add_compress, _add_ablate, _add_evaluate, _add_publish),
        *(_add_plan, bench_command.add, _add_count, predict_command.add),
    )
    for add in adders:
        add(commands)
    # Their options are the gateway's own: 'gpusq serve --help' shows them.
    commands.add_parser("serve", help="start the gateway over a model repository", add_help=False)
    commands.add_parser("keys", help="make, list and revoke a gateway's API keys", add_help=False)
    return parser


def _add_compress(commands: Commands) -> None:
    parser = add_command(
        commands,
        "compress",
        _compress,
        "compress a network as a recipe says",
        "gpusq compress recipes/digits.yaml",
    )
    parser.add_argument("recipe", type=Path, help="a YAML file, see docs/recipes.md")
    parser.add_argument(
        "--restart",
        action="store_true",
        help="begin anew instead of going on from the last checkpoint",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change one line of the recipe, such as prune.criterion=magnitude; may be repeated",
    )


def _add_ablate(commands: Commands) -> None:
    parser = add_command(
        commands,
        "ablate",
        _ablate,
        "run a recipe again and again with one ingredient changed at a time",
        "gpusq ablate recipes/digits.yaml --seeds 3 --only 'no late features' 'INT4'",
    )
    parser.add_argument("recipe", type=Path, help="a YAML file, see docs/recipes.md")
    parser.add_argument(
        "--seeds", type=whole_number, default=1, help="runs of each; medians are shown"
    )
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="NAME",
        help="these ingredients; all that change the recipe if not given",
    )
    parser.add_argument(
        "--restart", action="store_true", help="begin anew instead of reading finished runs"
    )
    parser.add_argument("--list", action="store_true", help="name the ingredients and what changes")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change one line of the recipe in every run; may be repeated",
    )
    parser.add_argument("--json", type=output_file, metavar="FILE", help="write every run's scores")


def _add_evaluate(commands: Commands) -> None:
    parser = add_command(
        commands,
        "evaluate",
        _evaluate,
        "measure the accuracy of an exported network",
        "gpusq evaluate model_repository/deit-tiny --data imagenet/val --json out.json",
    )
    parser.add_argument(
        "model", type=Path, metavar="MODEL", help="a bundle, or a model's folder in a repository"
    )
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="DIR",
        help="one folder a class, named by class id or name; any subset of the classes",
    )
    parser.add_argument(
        "--json",
        type=output_file,
        metavar="FILE",
        help="write top1, top5, images and what was skipped",
    )


def _add_publish(commands: Commands) -> None:
    parser = add_command(
        commands,
        "publish",
        _publish,
        "put a bundle into a model repository",
        "gpusq publish runs/digits/bundle --repository model_repository --name digits",
    )
    parser.add_argument("bundle", type=Path, help="a folder with model.onnx and card.json")
    add_repository(parser)
    parser.add_argument(
        "--backend",
        choices=("onnxruntime", "python"),
        default="onnxruntime",
        help="which Triton backend runs it",
    )
    parser.add_argument(
        "--max-batch", type=whole_number, default=8, help="pictures at once, at most"
    )


def _add_plan(commands: Commands) -> None:
    parser = add_command(
        commands,
        "plan",
        _plan,
        "build a TensorRT plan for the GPU of this machine, check it and install it",
        "gpusq plan runs/deit-tiny/bundle --repository model_repository --name deit-tiny",
    )
    parser.add_argument(
        "bundle",
        type=Path,
        metavar="BUNDLE",
        help="a folder with model.onnx and card.json, or a model's folder in a repository",
    )
    add_repository(parser)
    parser.add_argument(
        "--pictures",
        type=Path,
        metavar="DIR",
        help="check the plan with these, not with those in the bundle; needs ONNX Runtime",
    )
    parser.add_argument(
        "--search",
        action="store_true",
        help="build every form of the graph and keep the fastest at the best batch",
    )
    _add_builder_options(parser)


def _add_builder_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--body",
        choices=("float16", "tf32", "float32"),
        default="float16",
        help="what is not quantised is computed in this",
    )
    parser.add_argument("--dense", action="store_true", help="build without sparse kernels")
    parser.add_argument(
        "--max-batch", type=whole_number, default=8, help="pictures at once, at most"
    )
    parser.add_argument(
        "--best-batch",
        type=whole_number,
        help="pictures at once for which kernels are chosen; the most if not given",
    )
    parser.add_argument(
        "--instances", type=whole_number, help="side by side on one GPU; as many as before, or 1"
    )
    add_builder_options(parser)


def _add_count(commands: Commands) -> None:
    parser = add_command(
        commands,
        "count",
        _count_networks,
        "count size and operations of the paper's networks",
        "gpusq count --json count.json",
    )
    parser.add_argument("--json", type=output_file, metavar="FILE", help="write the table")


if __name__ == "__main__":
    sys.exit(main())
