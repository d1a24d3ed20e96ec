"""From the command line to a typed configuration; from an error to one line and an exit code."""

import argparse
import difflib
import errno
import os
import platform
import re
import signal
import sys
from argparse import ArgumentError
from collections.abc import Callable, Sequence
from dataclasses import is_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_args

from jsonargparse import ArgumentParser, Namespace

from engine.config import ConfigError
from engine.training.signals import SIGNALS, STOPPED
from launch.settings_file import refuse_unreadable

BAD_INPUT = 2
# Refusals of the system that may come from anywhere, and characters of a name that they show.
WRONG_KIND = (errno.EEXIST, errno.EISDIR, errno.ENOTDIR)
TOO_MUCH = (errno.ENAMETOOLONG, errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE)
SAID, LONGEST = (*TOO_MUCH, *WRONG_KIND), 80
SMALLER = (
    "take smaller batches or pictures, or for training train.activation_checkpointing norms, "
    "vision or all; what was saved is there"
)
# What gloo says where the process at the other end has died, and that it is no bad input.
LOST, OF_ANOTHER = ("Connection closed by peer", "Connection reset by peer"), 1
NO_SETTINGS = ("help", "config", "print_config", "print_shtab")

Config = TypeVar("Config")


def parse(
    kind: type[Config],
    argv: Sequence[str] | None = None,
    *,
    description: str,
    examples: str,
    words: tuple[str, str] | None = None,
    verb: str = "",
) -> Config:
    """Read `--config FILE` and dotted flags, which override it, into a configuration object.

    `--print_config` prints the resolved configuration as YAML and exits.

    Args:
        kind: dataclass to fill.
        argv: words after the program's name; None takes the process's.
        description: first line of `--help`.
        examples: commands shown at the end of `--help`.
        words: name of the list that words without a flag belong to, and what they are; None
            refuses them.
        verb: word that stands before the flags, and that `argv` begins after.

    Raises:
        ConfigError: unknown key (with the nearest one), wrong type, unreadable file.
    """
    parser = open_parser(description, examples, verb)
    if words:
        name = words[0].removesuffix("s").upper()
        parser.usage = f"%(prog)s {name} ... [--config FILE] [--key.subkey value ...]"
        parser.add_argument(words[0], nargs="*", type=str, default=[], metavar=name, help=words[1])
    parser.add_class_arguments(kind, None, skip=set(words[:1]) if words else set())
    return kind(**read(parser, argv))


def open_parser(description: str, examples: str, verb: str = "") -> ArgumentParser:
    """A parser with `--config` and `--print_config`; flags are for the caller to add.

    Args:
        description: first line of `--help`.
        examples: commands shown at the end of `--help`.
        verb: word that stands before the flags.
    """
    parser = ArgumentParser(
        prog=_program(verb),
        usage="%(prog)s [--config FILE] [--key.subkey value ...]",
        description=description,
        epilog=f"examples:\n{examples}",
        exit_on_error=False,
        allow_abbrev=False,
        formatter_class=_help_formatter(),
    )
    parser.add_argument("--config", action="config", help="YAML file; flags override it")
    return parser


class Words(argparse.ArgumentParser):
    """A parser for plain words; what it cannot read is a ConfigError."""

    def error(self, message: str) -> NoReturn:
        """Refuse the command line."""
        unknown = re.search(r"unrecognized arguments: (\S+)", message)
        if not unknown:
            raise ConfigError(f"{message}; --help shows examples")
        key = unknown[1].lstrip("-").partition("=")[0]
        raise ConfigError(f"unknown key {key!r}{nearest(key, [a.dest for a in self._actions])}")


def open_words(description: str, examples: str, verb: str = "") -> Words:
    """A parser for commands without a configuration; arguments are for the caller to add.

    Args:
        description: first line of `--help`.
        examples: commands shown at the end of `--help`.
        verb: word that stands before the arguments.
    """
    return Words(
        prog=_program(verb),
        description=description,
        epilog=f"examples:\n{examples}",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _program(verb: str) -> str:
    return f"python launch/{Path(sys.argv[0]).name} {verb}".rstrip()


def read(parser: ArgumentParser, argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Values of all flags by name, typed.

    Args:
        parser: from `open_parser`, with its flags.
        argv: words after the program's name; None takes the process's.

    Raises:
        ConfigError: unknown key (with the nearest one), wrong type, unreadable file.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    # The DeepSpeed launcher adds this flag to every rank; the environment says the same.
    words = _files_first([word for word in words if not word.startswith("--local_rank")])
    try:
        sections = {key.rpartition(".")[0] for key in _known_keys(parser)} - {""}
        refuse_unreadable(words, sections, _lists_of_sections(parser))
        space = parser.parse_args(words)
        del space["config"]
        _refuse_nulls(parser, space)
        return vars(parser.instantiate(space))
    except ConfigError:
        raise
    except (ArgumentError, TypeError, ValueError) as error:
        raise ConfigError(_explain(str(error), _known_keys(parser))) from None


def _files_first(words: list[str]) -> list[str]:
    """Flags override settings files wherever they stand; of several files, later ones win."""
    files, rest, named = [], [], False
    for word, following in pairwise([*words, "--"]):
        begins = word == "--config" and not following.startswith("--")
        of_files = begins or named or word.startswith("--config=")
        (files if of_files else rest).append(word)
        named = begins
    return files + rest


def _help_formatter() -> type:
    from jsonargparse import DefaultHelpFormatter

    class Formatter(DefaultHelpFormatter):
        """Keeps the line breaks of the examples."""

        def _fill_text(self, text: str, width: int, indent: str) -> str:
            return "\n".join(indent + line for line in text.splitlines())

    return Formatter


def _known_keys(parser: ArgumentParser) -> list[str]:
    # The parser adds a `.help` for a list of sections.
    names = [a.dest for a in parser._actions if a.dest not in NO_SETTINGS]
    names = [name for name in names if not name.endswith(".help")]
    return [name for name in names if not any(other.startswith(f"{name}.") for other in names)]


def _lists_of_sections(parser: ArgumentParser) -> set[str]:
    kinds = ((a.dest, get_args(getattr(a, "_typehint", None))) for a in parser._actions)
    return {name for name, of in kinds if of and is_dataclass(of[0])}


def _refuse_nulls(parser: ArgumentParser, space: Namespace) -> None:
    """The parser takes null for any setting; here it is a value where the type says so."""
    kinds = {action.dest: getattr(action, "_typehint", None) for action in parser._actions}
    for key in _known_keys(parser):
        takes_null = type(None) in get_args(kinds[key]) or parser.get_default(key) is None
        if space.get(key) is None and not takes_null:
            raise ConfigError(f"{key}: null is no value for it; leave the key out for its default")


def _explain(message: str, known: list[str]) -> str:
    """The parser's message as one line, with the nearest known key where one is unknown."""
    line = " ".join(message.split())
    # Of a list's entries: whose fields are not among the known keys.
    entry = re.search(r"Option '(.+)' is not accepted", line)
    listed = re.match(r'Parser key "([\w.]+)": Problem with given class_path', line)
    if entry and listed:
        return f"{listed[1]}: unknown key {entry[1]!r} in an entry; --help shows what one has"
    line = re.sub(r"Problem with given class_path '[\w.]+': ", "in an entry: ", line)
    unknown = re.search(r"unrecognized arguments: --([\w.]+)", line)
    if unknown:
        return f"unknown key {unknown[1]!r}{nearest(unknown[1], known)}"
    unknown = re.search(r"Group '([\w.]*)' does not accept option '([\w.]+)'", line)
    unknown = unknown or re.search(r"Option '([\w.]+)' is not accepted", line)
    if unknown:
        key = ".".join(unknown.groups())
        return f"unknown key {key!r}{nearest(key, known)}"
    line = re.sub(r'Parser key "([\w.]+)":', r"\1:", line).replace("<class '", "").replace("'>", "")
    line = re.sub(r"(?:typing\.)?Literal\[(.*?)\]", _choices, line)
    union = re.search(r"^([\w.]+): .*?Subtypes: \[(.*?)\] Errors: .*Given value: (.*)$", line)
    if union:
        kinds = union[2].replace("NoneType", "null").replace(", ", " or ")
        return f"{union[1]}: expected {kinds}, got {union[3]!r}"
    return re.sub(
        r"Expected an? (?:typing\.)?(.+?)\. Got value: (.*)$", r"expected \1, got '\2'", line
    )


def _choices(literal: re.Match[str]) -> str:
    return literal[1].replace("'", "").replace(", ", " or ")


def nearest(key: str, known: list[str]) -> str:
    """`: did you mean ...?` for the known key that is most like an unknown one.

    Args:
        key: what was given.
        known: dotted names; looked for in the key's section first, then by their last parts.
    """
    section, _, leaf = key.rpartition(".")
    siblings = {k.rpartition(".")[2]: k for k in known if k.rpartition(".")[0] == section}
    everywhere = {k.rpartition(".")[2]: k for k in known}
    whole = {name: name for k in known for name in (k, k.partition(".")[0])}
    for candidates, word in ((siblings, leaf), (whole, key), (everywhere, leaf)):
        close = difflib.get_close_matches(word, candidates, 1, 0.6) or [
            name for name in candidates if _initials(name) == word
        ]
        if close:
            return f": did you mean {candidates[close[0]]!r}?"
    return "; --help lists the known ones"


def _initials(name: str) -> str:
    return "".join(part[:1] for part in name.split("_"))


def run_main(main: Callable[[], int | None]) -> None:
    """Run an entry point: bad input becomes one line on a machine's stderr and exit code 2."""
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        # So that what a command builds aside is removed; a run installs its own handlers.
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        code = main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except ConfigError as error:
        # Before processes have met, each machine may have found something else.
        met = getattr(sys.modules.get("engine.runtime"), "has_met", False)
        if os.environ.get("RANK" if met else "LOCAL_RANK", "0") == "0":
            host = "" if os.environ.get("RANK", "0") == "0" else f"{platform.node()}: "
            print(f"error: {host}{' '.join(str(error).split())}", file=sys.stderr)
        code = BAD_INPUT
    except BrokenPipeError:
        code = 0
    except OSError as error:
        # What nobody has looked at before; all else that files refuse is said by name.
        if error.errno not in SAID:
            raise
        named = f"{str(error.filename)[:LONGEST]}: " if error.filename else ""
        print(f"error: {named}{error.strerror}", file=sys.stderr)
        # What could not be printed is not tried again while Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = BAD_INPUT
    except RuntimeError as error:
        # By name: not every program has imported torch. Any rank may be the one.
        said, code = str(error).split(". ")[0], BAD_INPUT
        if any(lost in str(error) for lost in LOST):
            line = "another process of this run has died; what was saved is there: start again"
            print(f"error: {line}", file=sys.stderr)
            sys.exit(OF_ANOTHER)
        if "can't allocate memory" in str(error):
            said = "out of memory"
        elif type(error).__name__ != "OutOfMemoryError":
            raise
        print(f"error: {said}: {SMALLER}", file=sys.stderr)
    sys.stdout.flush()
    if code == STOPPED:
        # As it ends Python gives signals back what they do by default, and all is saved.
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
    sys.exit(code or 0)
