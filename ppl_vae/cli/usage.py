"""A mistake on the command line as one line: what was expected, what was got, what to try."""

from __future__ import annotations

import difflib
import re
from typing import Any

import typer
from typer.core import TyperGroup

from ppl_vae.core.errors import InputError, shown, unknown_name

#: What typer raises on a command line it cannot read (its own class, or click's in older versions).
UsageError: Any = typer.BadParameter.__mro__[1]

#: Arguments of the library that are options here, so that a line which names one names it as it is typed.
_OPTIONS = (
    "architecture", "batch_size", "binarization", "clip_norm", "compile", "covariance", "device", "dtype", "epochs",
    "hidden", "kl_warmup", "kl_weight", "latent_dim", "likelihood", "lr", "method", "num_particles", "objective",
    "optimizer", "out", "overwrite", "patience", "resume", "run_dir", "schedule", "seed", "split", "standardise",
    "verify",
)  # fmt: skip
_OF_DATA = re.compile(r"\b(channels|levels|support)=(['\"]?)([^\s,;'\"()]+)\2")  # typed as --data-option
_SETTING = re.compile(rf"\b({'|'.join(_OPTIONS)})=(['\"]?)([^\s,;'\"()]+)\2")
_WORD = re.compile(rf"(?<!')\b({'|'.join(name for name in _OPTIONS if '_' in name)})\b")
_HEAD = re.compile(rf"^({'|'.join(_OPTIONS)})(?=:| )")


class Commands(TyperGroup):
    """A group of commands that suggests the nearest name for an unknown one."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that `args` begins with; an unknown name is an `InputError`."""
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            raise unknown_name("command", args[0], self.list_commands(ctx))
        return super().resolve_command(ctx, args)


def as_typed(line: str) -> str:
    """Return an error of the library with its arguments named as one types them: ``--num-particles 100``.

    Only the thing at fault and the advice are changed, never what was got.
    """
    line = _HEAD.sub(lambda match: _flag(match[1]), line)
    fault, found, advice = line.rpartition("; try ")
    if not found:
        return line
    advice = _OF_DATA.sub(lambda match: f"--data-option {match[1]}={match[3]}", advice)
    advice = _SETTING.sub(lambda match: _typed(match[1], match[3]), advice)
    return fault + found + _WORD.sub(lambda match: _flag(match[1]), advice)


def usage_line(error: Any) -> str:
    """Return typer's usage error as one line in the form of `InputError`."""
    context, message = error.ctx, " ".join(error.format_message().split())
    path = context.command_path if context else "ppl-vae"
    advice = f"'{path} --help'"
    option = getattr(error, "option_name", None)
    parameter = getattr(error, "param", None)
    if option is not None and "requires" in message:
        return str(InputError(option, expected="a value", got="none", hint=advice))
    if option is not None:
        known = [name for each in context.command.params for name in each.opts]
        near = difflib.get_close_matches(option, known, n=1)
        return str(
            InputError(
                "unknown option", expected=f"one of '{path}'", got=shown(option), hint=repr(near[0]) if near else advice
            )
        )
    if parameter is not None:
        name = next((name for name in parameter.opts if name.startswith("--")), parameter.metavar or parameter.name)
        if message.startswith("Missing"):
            return str(InputError(name, expected="a value", got="none", hint=advice))
        kind = re.search(r"a valid \w+", message)
        return str(
            InputError(name, expected=kind[0] if kind else "", got=_given(error) or message.rstrip("."), hint=advice)
        )
    extra = re.search(r"unexpected extra argument\S* \((.*)\)", message)
    if extra:
        return str(InputError(path, expected="no further argument", got=shown(extra[1]), hint=advice))
    return str(InputError(path, got=message.rstrip("."), hint=advice))


def _given(error: Any) -> str:
    """Return what was typed where a value could not be read: typer keeps it in the cause, or in the message."""
    details = getattr(error.__cause__, "errors", None)
    if callable(details):
        return repr(details()[0]["input"])
    quoted = re.match(r"'.*?'", error.message)
    return quoted[0] if quoted else ""


def _typed(name: str, value: str) -> str:
    if value == "None":
        return f"leaving {_flag(name)} out"
    if value == "False":
        return f"--no-{name}"
    return _flag(name) if value == "True" else f"{_flag(name)} {value}"


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
