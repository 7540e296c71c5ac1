"""`samovar doctor`: whether a model file is what it claims to be, line by line, and what to do where it is not."""

import argparse
import json
import textwrap
from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING, Final

from samovar.cli.arguments import Subparsers
from samovar.cli.progress import ProgressBar
from samovar.cli.terminal import Streams, one_line, printable
from samovar.doctor.check_weights import SHA256
from samovar.doctor.examine import Report, examine
from samovar.doctor.finding import Finding, Status
from samovar.doctor.release_names import find_release, no_such_release
from samovar.doctor.releases import RELEASES
from samovar.formats import open_checkpoint
from samovar.formats.hub import default_store, resolve
from samovar.models.loader import read_config

if TYPE_CHECKING:
    from samovar.llm import LLM

_EXAMPLES: Final = """examples:
  samovar doctor qwen2.5-coder:0.5b
  samovar doctor ./Qwen3-8B-Q4_K_M.gguf --full
  samovar doctor ./my-model --as Qwen3-4B-Instruct-2507
  samovar doctor model.gguf --json

Holds the tokenizer, the chat template, the config, the control tokens and the weights against what is known of the release
that the file claims to be. Each line passes, fails, or cannot be known. The exit code is 1 where a line fails. Nothing is
fetched, and no code of the model is run.
"""
_MARKS: Final = {Status.PASS: "\u2713", Status.FAIL: "\u2717", Status.UNKNOWN: "?"}
_PLAIN_MARKS: Final = {Status.PASS: "+", Status.FAIL: "X", Status.UNKNOWN: "?"}  # for terminals without the others
_STYLES: Final = {Status.PASS: "green", Status.FAIL: "bold red", Status.UNKNOWN: "yellow"}
_Line = tuple[str, str]  # a text, and its style

_CONTEXT: Final = 2048  # tokens; what the texts of the self-tests need is less


def add_parser(subparsers: Subparsers) -> None:
    """The command's arguments."""
    parser = subparsers.add_parser(
        "doctor", help="check that a model file is what it claims to be", description=__doc__, epilog=_EXAMPLES
    )
    parser.add_argument("model", metavar="MODEL", help="a GGUF file, a Hugging Face folder, or a name in the store")
    parser.add_argument("--as", dest="release", metavar="RELEASE", help="check it as this release, whatever it is called")
    parser.add_argument("--full", action="store_true", help="look at all values of large models, not at samples")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run, parser=parser)


def run(args: argparse.Namespace, streams: Streams) -> int:
    """Print the report. Returns 1 where a line fails."""
    if args.release is not None and find_release(args.release, RELEASES) is None:
        args.parser.error(no_such_release(args.release, RELEASES))
    path = resolve(args.model, default_store())

    def open_model() -> "LLM":
        from samovar.llm import LLM  # most models are checked without being run

        longest = read_config(open_checkpoint(path)).max_context
        return LLM(path, isa=streams.isa, max_context=min(_CONTEXT, longest))

    with ProgressBar(streams, "checking") as bar:
        report = examine(path, open_model=open_model, asked=args.release, is_full=args.full, progress=bar)
    if args.json:
        streams.stdout.write(to_json(report) + "\n")
    else:
        _print(report, streams)
    return 1 if report.count(Status.FAIL) else 0


def to_json(report: Report) -> str:
    """The report as one JSON object."""
    return json.dumps(
        {
            "path": str(report.path),
            "release": report.release.name if report.release else None,
            **{f"n_{status.value}": report.count(status) for status in Status},
            "findings": [
                {
                    "section": f.section,
                    "what": f.what,
                    "status": f.status.value,
                    "found": f.found,
                    "expected": f.expected or None,
                    "advice": f.advice or None,
                    "detail": list(f.detail),
                }
                for f in report.findings
            ],
        }
    )


def _print(report: Report, streams: Streams) -> None:
    from rich.text import Text  # with --json it is not needed

    console = streams.console(streams.stdout)
    width = min(console.width, 120) if console.is_terminal else None
    is_unicode = "utf" in (getattr(streams.stdout, "encoding", None) or "utf").lower()
    for text, style in _lines(report, _MARKS if is_unicode else _PLAIN_MARKS, width):
        console.print(Text(text, style=style), soft_wrap=True)


def _lines(report: Report, marks: dict[Status, str], width: int | None) -> Iterator[_Line]:
    """The report for people, wrapped at `width` where there is one."""
    claimed = f"checked as {report.release.name}" if report.release else "no release to check it against"
    yield from _wrapped(f"{one_line(report.path.name)}: {claimed}", "  ", width, "bold")
    column = max(len(finding.what) for finding in report.findings) + 2
    for section, findings in groupby(report.findings, lambda finding: finding.section):
        yield "", ""
        yield section, "bold"
        for finding in findings:
            yield from _finding(finding, marks, column, width)
    yield "", ""
    style = _STYLES[Status.FAIL if report.count(Status.FAIL) else Status.PASS]
    yield from _wrapped(_summary(report), "  ", width, style)


def _finding(finding: Finding, marks: dict[Status, str], column: int, width: int | None) -> Iterator[_Line]:
    head = f"  {marks[finding.status]} {finding.what:{column}}"
    indent = " " * len(head)
    is_bad = finding.status is not Status.PASS
    yield from _wrapped(head + one_line(finding.found), indent, width, _STYLES[finding.status] if is_bad else "")
    if finding.expected:
        yield from _wrapped(f"{indent}expected: {one_line(finding.expected)}", indent, width, "")
    for line in finding.detail:
        yield from _wrapped(indent + printable(line.replace("\n", " ")), indent + "  ", width, "cyan")
    if finding.advice:
        yield from _wrapped(f"{indent}> {one_line(finding.advice)}", indent + "  ", width, "dim" if not is_bad else "")


def _wrapped(text: str, indent: str, width: int | None, style: str) -> Iterator[_Line]:
    lines = [text] if width is None else textwrap.wrap(text, max(width, 40), subsequent_indent=indent, break_on_hyphens=False)
    for line in lines:
        yield line, style


def _summary(report: Report) -> str:
    n_pass, n_fail, n_unknown = (report.count(status) for status in (Status.PASS, Status.FAIL, Status.UNKNOWN))
    counts = f"{n_pass} pass, {n_fail} fail, {n_unknown} cannot be known"
    if n_fail:
        return f"{counts}: it is not as published; each line that fails says what to do"
    if report.release is None:
        return f"{counts}: nothing to hold it against; --as NAME says which release it is"
    if any(finding.what == SHA256 and finding.status is Status.PASS for finding in report.findings):
        return f"{counts}: it is as published, as far as can be told from here"
    return f"{counts}: nothing differs from {report.release.name}; no known hash vouches for the values of its weights"
