"""The command line: ``workbench measure seed-cnn --weight-bits 4 --json``.

Other packages add commands through the entry point group ``workbench.commands``; ``workbench app``
comes from `widgets`, so that the engine alone needs no Jupyter.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, get_args

from workbench.errors import WorkbenchError

if TYPE_CHECKING:
    from workbench.recipe import Recipe


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0, or 1 with a sentence on stderr for what cannot be done, or 130 after Ctrl+C.
    """
    parser = argparse.ArgumentParser(prog="workbench", description="Bits, distillation and devices, measured.")
    commands = parser.add_subparsers(required=True, metavar="command")
    _add_measure(commands)
    _add_export(commands)
    _add_frontier(commands)
    for entry in entry_points(group="workbench.commands"):
        entry.load()(commands)
    options = parser.parse_args(arguments)
    try:
        return int(options.run(options))
    except WorkbenchError as error:
        print(f"workbench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _add_measure(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("measure", help="measure one recipe on a model of the zoo")
    _add_recipe(parser)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.set_defaults(run=_measure)


def _add_export(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("export", help="write what a recipe makes of a model of the zoo")
    _add_recipe(parser)
    parser.add_argument(
        "--to",
        metavar="PATH",
        required=True,
        help="a file that ends in .onnx, .pt2, .xml or .safetensors; without an ending, a folder that runs elsewhere",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")
    parser.set_defaults(run=_export)


def _add_frontier(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    about = "measure a model under all levers: students of many forms, on grids of few bits, and fine-tuned ones"
    parser = commands.add_parser("frontier", help=about, description=f"{about}. A run that was stopped goes on.")
    parser.add_argument("--model", default="seed-cnn", metavar="NAME", help="of the zoo; seed-cnn by default")
    parser.add_argument("--out", metavar="FILE", help="NAME-frontier.json by default; what it holds is not done again")
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="1 by default; each uses one thread")
    parser.add_argument("--quick", action="store_true", help="few recipes, poorly trained, to see that it works")
    parser.set_defaults(run=_frontier)


def _add_recipe(parser: argparse.ArgumentParser) -> None:
    """The model, and the options that make a recipe."""
    from workbench.recipe import Quantization

    parser.add_argument("model", help="a name of the zoo, such as seed-cnn")
    parser.add_argument("--recipe", metavar="FILE", help="a recipe as JSON; the options below change it")
    parser.add_argument("--weight-bits", type=int, metavar="N", help="1 to 8")
    parser.add_argument("--activation-bits", type=int, metavar="N", help="2 to 8")
    for name in ("method", "scheme", "granularity", "range", "correction"):
        offered = get_args(Quantization.model_fields[name].annotation)
        parser.add_argument(f"--{name}", metavar="NAME", help=f"{', '.join(offered[:-1])} or {offered[-1]}")
    parser.add_argument("--layer", action="append", default=[], metavar="NAME=BITS", help="weight bits of one layer")
    parser.add_argument("--runtime", metavar="NAME", help="onnxruntime, openvino, inductor or eager")
    parser.add_argument("--threads", type=int, metavar="N")
    parser.add_argument("--batch", type=int, metavar="N", help="inputs per call")


def _measure(options: argparse.Namespace) -> int:
    from workbench import zoo

    report = zoo.load(options.model).measure(_recipe(options))
    print(report.model_dump_json(indent=2) if options.json else report)
    return 0


def _export(options: argparse.Namespace) -> int:
    from workbench import zoo

    recipe = _recipe(options)
    for state in zoo.load(options.model).export_stream(recipe, options.to, overwrite=options.overwrite):
        if state.done:
            print(f"{state.path}: {state.size:,} bytes. {state.agreement}")
    return 0


def _frontier(options: argparse.Namespace) -> int:
    from pathlib import Path

    from workbench import zoo
    from workbench.frontier.programme import programme
    from workbench.frontier.running import run, workers

    if options.processes < 1:
        raise WorkbenchError(f"--processes {options.processes}: at least 1 is needed.")
    bench = zoo.load(options.model)
    path = Path(options.out or f"{options.model}-frontier.json")
    executor = workers(options.processes)
    try:
        for step in run(bench, programme(bench, quick=options.quick), path, executor):
            for report in step.latest:
                accuracy, size = 100 * report.accuracy.value, report.size.value / 1e3
                print(f"  {report.recipe.label}: {accuracy:.2f} %, {size:.1f} kB")
            print(f"{step.done} of {step.total} recipes in {path}, {step.seconds:.0f} s", flush=True)
    finally:
        executor.shutdown(cancel_futures=True)
    return 0


def _recipe(options: argparse.Namespace) -> Recipe:
    from pathlib import Path

    from workbench.recipe import Deployment, Quantization, Recipe

    recipe = Recipe()
    if options.recipe:
        try:
            recipe = Recipe.from_json(Path(options.recipe).read_text())
        except OSError as error:
            raise WorkbenchError(f"The recipe {options.recipe} cannot be read: {error.strerror}.") from error

    def chosen(kind: type[Quantization | Deployment]) -> dict[str, object]:
        named = {name: getattr(options, name, None) for name in kind.model_fields}
        return {name: value for name, value in named.items() if value is not None}

    quantization = recipe.quantization.replace(**chosen(Quantization))
    layers: dict[str, object] = dict(quantization.layers)
    for text in options.layer:
        name, _, bits = text.partition("=")
        if not bits.isdigit():
            raise WorkbenchError(f"--layer {text}: NAME=BITS is expected, such as fc2=8.")
        layers[name] = {"weight_bits": int(bits)}
    return recipe.replace(
        quantization=quantization.replace(layers=layers),
        deployment=recipe.deployment.replace(**chosen(Deployment)),
    )
