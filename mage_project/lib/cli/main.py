"""The command line: commands, exit codes, and errors as one paragraph.

0 done, 1 a run or a slice failed, 2 wrong usage or configuration, 130 interrupted.
"""

from __future__ import annotations

import logging
import sys
import traceback
from typing import Any

import click

from mage_project.lib.cli import screen
from mage_project.lib.cli.demo import demo
from mage_project.lib.cli.records import ledger_command, runs_command
from mage_project.lib.cli.run import run
from mage_project.lib.cli.services import down, status, ui, up
from mage_project.lib.cli.upkeep import check, clean
from mage_project.lib.errors import CantripError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--debug", is_flag=True, help="Show a traceback with an error, and all that is logged.")
@click.pass_context
def cantrip(context: click.Context, debug: bool) -> None:
    """Mage block pipelines that reconcile: run, re-run and inspect them by date window.

    \b
    A first run, from nothing and without a cloud account:
      ./cantrip up
      ./cantrip run api_to_postgres --date 2021-02-10 --var color=green
      ./cantrip ledger
    """
    context.obj = {"debug": debug}
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("mage_project").setLevel(logging.DEBUG if debug else logging.WARNING)


for command in (up, down, status, run, check, ledger_command, runs_command, clean, ui, demo):
    cantrip.add_command(command)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    code = invoke(sys.argv[1:] if arguments is None else arguments)
    screen.silence()
    sys.exit(code)


def invoke(arguments: list[str]) -> int:
    """Run one command and give its exit code; errors are printed, never raised."""
    debug = "--debug" in arguments
    # `--debug` is taken wherever it stands
    arguments = [*(["--debug"] if debug else []), *(each for each in arguments if each != "--debug")]
    try:
        code: Any = cantrip.main(arguments, prog_name="cantrip", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("\ninterrupted: the slice that was being written holds what it held before", err=True)
        return 130
    except CantripError as error:
        _explain(error, debug)
        return error.exit_code
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output went away: nothing more to say
        return 1
    except Exception as error:  # noqa: BLE001 - the last door: whatever it is, a person gets one paragraph
        _explain(error, debug)
        return 1


def _explain(error: Exception, debug: bool) -> None:
    if debug:
        traceback.print_exception(error)
    text = (
        str(error)
        if isinstance(error, CantripError)
        else f"{type(error).__name__}: {' '.join(str(error).split())}. Run it with --debug for more."
    )
    click.echo(f"error: {text}", err=True)
