"""The command table, and the one place where an exception becomes a line and an exit code."""

from __future__ import annotations

import logging
import sys
import traceback
import warnings
from collections.abc import Sequence
from io import TextIOWrapper
from typing import Annotated

import typer

from cfmri_core import __version__
from cfmri_core.cli import (
    active_learning_study,
    archive,
    augment,
    batch,
    benchmark,
    calibration,
    editing,
    evaluation,
    importing,
    inspection,
    lesion,
    lesion_study,
    pacs,
    segmentation_study,
    server,
    simulation,
    stress_test,
    structure,
    training,
)
from cfmri_core.cli.console import note
from cfmri_core.errors import Cancelled, CfmriError, ResourceError

_DEBUG = "--debug"

app = typer.Typer(
    name="cfmri",
    help="How would this patient's MR scan have looked, had it been acquired otherwise? Results are synthetic: "
    "not for diagnosis.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("doctor")(inspection.doctor)
app.command("info")(inspection.info)
app.command("index")(archive.index)
app.command("export")(archive.export)
app.command("simulate")(simulation.simulate)
app.command("predict-iap")(editing.predict_iap)
app.command("edit")(editing.edit)
app.command("segment")(editing.segment)
app.command("lesion")(lesion.lesion)
app.command("structure")(structure.structure)
app.add_typer(training.app, name="train")
app.add_typer(calibration.app, name="calibrate")
app.command("augment")(augment.augment)
app.command("batch")(batch.batch)
app.command("evaluate")(evaluation.evaluate)
app.command("evaluation-page", hidden=True)(evaluation.evaluation_page)
app.command("stress-test")(stress_test.stress_test)
app.command("segmentation-study")(segmentation_study.segmentation_study)
app.command("active-learning-study")(active_learning_study.active_learning_study)
app.command("lesion-study")(lesion_study.lesion_study)
app.command("import-checkpoint")(importing.import_checkpoint)
app.command("bundle")(importing.bundle)
app.command("bench")(benchmark.bench)
app.add_typer(pacs.app, name="pacs")
app.command("serve")(server.serve)
app.command("token")(server.token)
app.add_typer(server.audit, name="audit")
app.command("demo", hidden=True)(server.demo)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", callback=_print_version, is_eager=True)
    ] = False,
    debug: Annotated[bool, typer.Option(_DEBUG, help="On an error, print the whole traceback.")] = False,
) -> None:
    del version  # has its own callback
    del debug  # taken out of the arguments by main(), so that it may stand anywhere


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and leave with its exit code: 0 only on success."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = _DEBUG in given
    _quieten(debug)
    _let_every_text_be_printed()
    sys.exit(_run([argument for argument in given if argument != _DEBUG], debug))


def _let_every_text_be_printed() -> None:
    """Escape what a stream cannot encode, such as a path that is not UTF-8: no command fails for what it says."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _run(arguments: list[str], debug: bool) -> int:
    try:
        code = app(args=arguments, prog_name="cfmri", standalone_mode=False)
    except typer.TyperException as error:
        return _usage_error(error)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has gone; nobody is left to be told
        return 1
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            traceback.print_exc()
        return _report(error)
    if code == Cancelled.exit_code:  # typer turns Ctrl-C into this exit code
        return _report(KeyboardInterrupt())
    return code if isinstance(code, int) else 0


def _report(error: BaseException) -> int:
    known = _known(error)
    note(f"cfmri: {' '.join(str(known).split())}")
    return known.exit_code


def _known(error: BaseException) -> CfmriError:
    """Return the error as one of ours: itself, or what it means to the user."""
    if isinstance(error, CfmriError):
        return error
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        return Cancelled("Cancelled.")
    if isinstance(error, OSError):
        return ResourceError(f"{error}.", "Check the path, its permissions and free space.")
    from cfmri_core.models.batches import is_out_of_memory  # brings torch along

    if is_out_of_memory(error):
        return ResourceError("Not enough memory.", "Edit fewer slices at a time with --slices.")
    return CfmriError(
        f"Unexpected {type(error).__name__}: {error}.", f"Add {_DEBUG} to the command for the traceback, and report it."
    )


def _usage_error(error: typer.TyperException) -> int:
    format_message = getattr(error, "format_message", None)
    context = getattr(error, "ctx", None)
    message = " ".join((format_message() if format_message else str(error)).split())
    hint = f"See '{context.command_path} --help'." if context else "See 'cfmri --help'."
    note(f"cfmri: {message} {hint}")
    return int(getattr(error, "exit_code", 2))


def _quieten(debug: bool) -> None:
    """Keep the warnings of libraries off the terminal unless somebody is looking for a fault."""
    logging.basicConfig(level=logging.INFO if debug else logging.CRITICAL)
    if not debug:
        warnings.simplefilter("ignore")
