"""What happens around each command: errors, interruption, a reader that has gone."""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from difflib import SequenceMatcher
from typing import Any, Final

import attrs
from cyclopts import App, CycloptsError, MissingArgumentError
from rich.text import Text

from ._console import (
    STDIN,
    error_console,
    forget_lost_output,
    is_output_lost,
    leave_what_fails,
    let_streams_wait,
    open_closed_streams,
    raise_lost_output,
    say_error,
    writing,
)
from ._errors import (
    BrokenOutput,
    Interrupted,
    OutputFailed,
    SaidNo,
    Stopped,
    UsageError,
    code_of,
    error_document,
    exit_code,
)
from ._signals import interruptible, nothing_was_kept, raise_what_is_held
from ._tree import ABSENT, ALIASES, COMPLETE, DEFAULT_PARAMETER, HELP, make_app

#: Messages of the parser, and our wording for them. Other messages are shown unchanged.
_REWORDED: Final = (
    (re.compile(r'Command "[^"]*" parameter (-\S+) requires an argument\.'), r"\1 needs a value"),
    (re.compile(r'Command "[^"]*" parameter (\S+) requires an argument\.'), r"\1 is missing"),
    (re.compile(r"Parameter (\S+) specified multiple times\."), r"\1 is given twice"),
    (re.compile(r"Unused Tokens: \[(.*)\]\."), r"unexpected argument \1"),
    (
        re.compile(r'Invalid value "(.*)" for (\S+)\. Choose from: (.*?)\.(?: Did you mean .*\?)?'),
        r'\2 takes one of \3, not "\1"',
    ),
    (re.compile(r'Invalid value for (\S+): unable to convert ("[^"]*") into float\.'), r"\1 takes a number, not \2"),
    (re.compile(r"Invalid value for (\S+): it takes"), r"\1 takes"),
    (re.compile(r" Available commands:.*"), ""),
    (re.compile(r'Unknown command "(-.*)"\.'), r"there is no option \1 before a command"),
    (re.compile(r'Unknown command (".*?")\.'), r"there is no command \1."),
    (re.compile(r"Unknown option: (\S+)\."), r"there is no option \1."),
    (re.compile(r"\. Did you mean (.*)\?"), r", but there is \1"),
)


def run(arguments: Sequence[str], app: App | None = None) -> int:
    """Run a command and return its exit code. What goes wrong is said in one line on stderr.

    With --json there is a JSON document, too, on stdout: programs need not read sentences.
    """
    open_closed_streams()
    let_streams_wait()
    with suppress(AttributeError, ValueError):
        # A terminal that cannot show a character gets another one, rather than no output at all.
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        sys.stderr.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        # Input that is not UTF-8 is kept as surrogates here, and refused where it is used, like arguments.
        sys.stdin.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]
    try:
        with interruptible():
            return _run(_in_full(arguments), app)
    except (BrokenOutput, BrokenPipeError):
        leave_what_fails()
        return code_of(BrokenOutput())
    except OutputFailed as exc:
        leave_what_fails()
        with suppress(BrokenOutput, OutputFailed):
            say_error(str(exc))
        # That sentence may have been for the stream that fails, and still be in its buffer.
        leave_what_fails()
        return code_of(exc)
    except Stopped:
        raise
    except KeyboardInterrupt as exc:
        with suppress(BrokenOutput, OutputFailed, KeyboardInterrupt):
            error_console().print(Text("interrupted", "dim"))
        return code_of(exc)
    finally:
        if is_output_lost():
            # Python would write what is left of it at the end of the process, and replace the exit code.
            leave_what_fails()


def _in_full(arguments: Sequence[str]) -> list[str]:
    """The command line in its canonical form, with aliases, `help COMMAND` and `-` replaced."""
    if list(arguments[:1]) == [COMPLETE]:
        # What is typed, and no command yet: a - may become an option.
        return list(arguments)
    words = [STDIN if word == "-" else word for word in arguments]
    if words[:1] == [HELP]:
        words = [*words[1:], "--help"]
    return [ALIASES.get(words[0], words[0]), *words[1:]] if words else words


def _run(words: Sequence[str], app: App | None) -> int:
    if words[:1] == [COMPLETE]:
        from ._complete import answer  # noqa: PLC0415  (only completion scripts ask)

        return answer(words[1:])
    try:
        _refuse_nul(words)
        _refuse_absent(words)
        tree = app or make_app(_first(words))
        line = _Line.of(tree, words)
        _refuse_values_of_flags(line)
        _refuse_address_elsewhere(line)
        forget_lost_output()
        result: Any = tree(words)
        with writing():
            sys.stdout.flush()
        if not result:
            # What went wrong with the guest is worth more than what is wrong with stderr.
            raise_lost_output()
    except (BrokenOutput, BrokenPipeError, OutputFailed):
        raise
    except KeyboardInterrupt:
        if nothing_was_kept():
            with suppress(BrokenOutput, OutputFailed):
                _write_document(error_document(Interrupted()), words)
        raise
    except Exception as exc:
        code = exit_code(exc)
        if code is None:
            raise
        if not isinstance(exc, SaidNo):
            refused(exc, words)
        raise_what_is_held()
        return code
    return result if isinstance(result, int) else 0


def refused(error: Exception, words: Sequence[str]) -> int:
    """Tell why the command line `words` has failed, and return its exit code."""
    sentence = _sentence(error, words)
    _write_document({**error_document(error), "error": sentence}, words)
    say_error(sentence)
    return code_of(error)


def _write_document(document: dict[str, Any], words: Sequence[str]) -> None:
    """Write the document of an error, where the command line asks for JSON."""
    form = _json_form(words)
    if form:
        with writing():
            print(json.dumps(document, indent=2 if form == "json" else None), flush=True)


def _refuse_nul(words: Sequence[str]) -> None:
    """Raise UsageError for a NUL. Only a line of our own shell can have one: no system hands over such an argument."""
    if any("\0" in word for word in words):
        raise UsageError("an argument has a NUL character, which neither a name nor a value may have: leave it out")


def _refuse_absent(words: Sequence[str]) -> None:
    """Raise UsageError for a command that people look for and that is not there."""
    if words and words[0] in ABSENT:
        raise UsageError(f'there is no command "{words[0]}": {ABSENT[words[0]]}')


@attrs.frozen(eq=False, repr=False)
class _Line:
    """A command line, before it is parsed."""

    #: The command.
    app: App
    #: The words that name it.
    name: tuple[str, ...]
    #: The words after these.
    rest: tuple[str, ...]

    @classmethod
    def of(cls, app: App, words: Sequence[str]) -> _Line:
        """Find the command that `words` begin with."""
        count = 0
        for word in words:
            if word.startswith("-") or word not in set(app):
                break
            app = app[word]
            count += 1
        return cls(app, tuple(words[:count]), tuple(words[count:]))

    @property
    def arguments(self) -> list[Any]:
        """What the command takes, none where it is a group of commands."""
        if self.app.default_command is None:
            return []
        return list(self.app.assemble_argument_collection(default_parameter=DEFAULT_PARAMETER))

    @property
    def see(self) -> str:
        """Where its help is."""
        return f"see: {' '.join(('stereosctl', *self.name, '--help'))}"


def _refuse_values_of_flags(line: _Line) -> None:
    """Raise UsageError for `--json=5`. The parser would take `--json=no` for an option that is not given."""
    given = [word.partition("=")[0] for word in line.rest if word.startswith("-") and "=" in word]
    if not given:
        return
    flags = {name for argument in line.arguments if argument.hint is bool for name in argument.names}
    for name in given:
        if name in flags:
            raise UsageError(f"{name} takes no value: give it alone, or leave it out; {line.see}")


def _refuse_address_elsewhere(line: _Line) -> None:
    """Raise UsageError for an address in the place of a word that comes before it, such as `mount TAG ADDRESS`.

    The parser would take it for that word, and the command would be about another guest, or about none.
    """
    if "--help" in line.rest or not any("://" in word for word in line.rest) or line.app.default_command is None:
        return
    needed = [
        parameter.name.upper()
        for parameter in inspect.signature(line.app.default_command).parameters.values()
        if parameter.kind is parameter.POSITIONAL_ONLY and parameter.default is parameter.empty
    ]
    if not needed:
        return
    from ._complete import standing  # noqa: PLC0415  (only a line with an address needs it)
    from ._targets import looks_like_address  # noqa: PLC0415

    alone = standing(line.arguments, line.rest)
    for place, (label, word) in enumerate(zip(needed, alone, strict=False)):
        if looks_like_address(word):
            shown = "the text in its place" if line.name[0] in _WITH_SECRETS else word
            missing = needed[place:]
            what = f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing"
            if len(alone) > place + 1:
                what = f"{label} comes before the address"
            raise UsageError(f"{what}: {shown} looks like an address; {line.see}")


def _json_form(words: Sequence[str]) -> str:
    """`json` or `jsonl` where the command line asks for it, else "". It may be one that the parser does not read."""
    for word, following in zip(words, (*words[1:], ""), strict=True):
        option, _, value = word.partition("=")
        if option in ("--json", "--jsonl"):
            return option[2:]
        if option in ("-o", "--output") and (value or following) in ("json", "jsonl"):
            return value or following
    return ""


_LACKING: Final = re.compile(r'Command "[^"]*" parameter (--\S+) requires an argument\.')

#: Commands that users try although the protocol has nothing for them: their words, and the answer.
_NO_WAY_BACK: Final = (
    "a secret cannot be read back: a guest never sends one; "
    "`stereosctl secret set NAME` replaces it, and a reboot of the guest removes it"
)
_MISSED: Final[dict[tuple[str, ...], str]] = {
    ("secret", verb): _NO_WAY_BACK for verb in ("get", "list", "ls", "read", "show", "cat")
}

#: Commands whose arguments are not repeated.
_WITH_SECRETS: Final = frozenset({"secret", "send"})


def _first(arguments: Sequence[str]) -> str:
    """The command's first word, "" where there is none: then nothing has to be loaded."""
    return next((word for word in arguments if not word.startswith("-")), "")


def _sentence(error: Exception, arguments: Sequence[str]) -> str:
    if not isinstance(error, CycloptsError):
        return str(error)
    missed = _MISSED.get(tuple(word for word in arguments if not word.startswith("-"))[:2])
    if missed:
        return missed
    where = " ".join(("stereosctl", *(error.command_chain or ()), "--help"))
    if arguments[:1] and arguments[0] in _WITH_SECRETS and not isinstance(error, MissingArgumentError):
        # The parser quotes what it does not understand, and that may be a secret in the wrong place.
        return f"these arguments do not fit (secrets never stand among them); see: {where}"
    text = _without_far_fetched(" ".join(str(error).split()).replace(STDIN, "-"))
    lacking = _LACKING.fullmatch(text)
    if lacking and not any(word.partition("=")[0] == lacking[1] for word in arguments):
        # The parser says the same of an option without a value and of an option that is not there.
        return f"{lacking[1]} is missing; see: {where}"
    for pattern, words in _REWORDED:
        text = pattern.sub(words, text)
    return f"{text.removesuffix('.')}; see: {where}"


#: What was typed and what the parser suggests for it, less the dashes in front of both.
_SUGGESTION: Final = re.compile(
    r'(?:Unknown option: |Unknown command ")-*([^".]+)"?\.(?P<suggested> Did you mean "?-*([^"?]+)"?\?)'
)
#: How much two words have in common at least, from 0 to 1, for one to be suggested for the other.
_CLOSE: Final = 0.7


def _without_far_fetched(text: str) -> str:
    """The parser's sentence without a suggestion that has little in common with what was typed."""
    found = _SUGGESTION.search(text)
    if found is None or SequenceMatcher(None, found[1], found[3]).ratio() >= _CLOSE:
        return text
    return text.replace(found["suggested"], "")
