"""The command line: every command parses, calls one library function and prints the answer."""

import io
import os
import sys
from collections.abc import Sequence
from typing import Any

import click
import torch

import eru
from eru.training import keep_freed_memory
from eru_cli.export import export
from eru_cli.lm import lm_eval, lm_generate, lm_train
from eru_cli.options import program
from eru_cli.paper import paper
from eru_cli.predict import predict
from eru_cli.summary import summary
from eru_cli.vision import vision_eval, vision_shapes, vision_train

_NOT_DETERMINISTIC = "does not have a deterministic implementation"  # what torch says of such an operator


class _Commands(click.Group):
    """Commands whose errors are one line on stderr and exit code 2, without a traceback."""

    def main(self, args: Sequence[str] | None = None, *_: Any, **extra: Any) -> None:
        """Run the command that ``args`` name, and exit."""
        extra["standalone_mode"] = False
        # What a terminal's encoding lacks is shown as an escape, as stderr does, in place of an error that loses all.
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            sys.exit(super().main(args, **extra) or 0)
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message())
            sys.exit(0)
        except click.UsageError as error:
            called = next(iter(sys.argv[1:] if args is None else args), "")
            command = f" {called}" if called in self.commands else ""
            _fail(f"{error.format_message()} ({program()}{command} --help shows an example)")
        except click.ClickException as error:
            _fail(error.format_message())
        except click.Abort:
            click.echo("Stopped: nothing is kept of what was done, and the same command starts it anew.", err=True)
            sys.exit(130)
        except (ValueError, OSError) as error:
            _fail(str(error))
        except (MemoryError, RuntimeError) as error:
            if _is_of_memory(error):
                _fail("this machine has not memory enough for such sizes")
            if _NOT_DETERMINISTIC not in str(error):
                raise
            _fail(f"--deterministic: torch's {str(error).split(' ')[0]} has no such algorithm on this device")


def _is_of_memory(error: Exception) -> bool:
    """Whether an allocator failed; PyTorch's own for the CPU raises an error without a class of its own."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)


def _fail(message: str) -> None:
    click.echo(f"Error: {' '.join(message.split())}", err=True)
    sys.exit(2)


@click.group(cls=_Commands, context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
@click.version_option(eru.__version__, prog_name="eru")
def main() -> None:
    """ERU language models: train, evaluate, sample. ESPNetv2 vision: predict on pictures. Both: count."""
    # Large tensors in huge pages (Linux; read at the first one): a training step is mostly made of fresh ones, whose
    # pages cost more time than the arithmetic of some operators on them (docs/performance.md).
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    keep_freed_memory()


for command in (
    *(lm_train, lm_eval, lm_generate),
    *(vision_train, vision_eval, vision_shapes, predict),
    *(export, summary, paper),
):
    # The docstrings are raw: their \b stands for the character by which click knows lines that stay as they are.
    command.help = str(command.help).replace(r"\b", "\b").replace("python cli.py", program())
    main.add_command(command)
