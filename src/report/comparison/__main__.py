"""The command: `python -m src.report.comparison track=1 of=runs`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from src.data.words import DataSet, read_data_set
from src.files import write_text
from src.report.comparison import Comparison, left_out, runs, votes
from src.report.tables import as_csv, as_latex, as_markdown, as_text

USAGE = """python -m src.report.comparison data=<folder or CSV>: a data set's runs side by side

  data=/PACS            or track=1 data=/nico: whose runs
  of=contexts           the runs that left one context out, as the field's table; runs: any runs, finished or not, with
                        the settings that differ; votes: predict.py's votes on test images
  runs=*                of=runs: which, as globs over stage/name: finetune/*,*-seed0
  logs_dir=logs         where the runs are
  results_dir=results   where the votes are
  format=text           text, markdown, csv, latex, or html: a page that opens offline, with curves
  output=<file>         instead of printing
"""
FORMATS = {"text": as_text, "markdown": as_markdown, "latex": as_latex}
SETTINGS = {"of": "contexts", "runs": "*", "logs_dir": "logs", "results_dir": "results", "format": "text", "output": ""}


def compared(words: Sequence[str]) -> str:
    """What the command prints, or has written.

    Raises:
        OSError, ValueError: a word that is not a setting, or nothing to compare.
    """
    try:
        data = read_data_set(words)
    except ValueError as error:
        raise ValueError(f"{error}\n\n{USAGE}") from error
    settings = SETTINGS | data.others
    wrong = [repr(key) for key in settings if key not in SETTINGS]
    wrong += [f"format={settings['format']}"] if settings["format"] not in (*FORMATS, "csv", "html") else []
    wrong += [f"of={settings['of']}"] if settings["of"] not in ("contexts", "runs", "votes") else []
    if wrong:
        raise ValueError(f"{wrong[0]} is not a setting of the comparison\n\n{USAGE}")
    made = comparison_of(data, settings, [word for word in words if word.startswith(("data", "track"))])
    text = written(made, settings["format"])
    if not settings["output"]:
        return text
    write_text(Path(settings["output"]), text + "\n")
    return f"wrote {settings['output']}"


def comparison_of(data: DataSet, settings: dict[str, str], about: Sequence[str]) -> Comparison:
    """What is compared, `about` being the words that name the data set.

    Raises:
        OSError, ValueError: there is nothing.
    """
    name = data.layout.name
    logs = Path(settings["logs_dir"]) / name
    if settings["of"] == "votes":
        return votes.compare(Path(settings["results_dir"]) / name, Path(settings["logs_dir"]))
    if settings["of"] == "runs":
        found, notes = runs.read(logs, settings["runs"].split(","))
        return runs.compare(found, f"runs of {name}", notes)
    without = left_out.read_left_out(logs)
    if not without:
        raise ValueError(
            f"no finished run in {logs} left one context out: python train.py -m {shlex.join(about)} stage=baseline "
            "split=each_context seed=0,1,2"
        )
    return left_out.compare(without)


def written(made: Comparison, form: str) -> str:
    """A comparison in one of the formats."""
    if form == "csv":
        return as_csv(made.program).rstrip()
    if form == "html":
        from src.report.comparison.page import as_html  # matplotlib and jinja2 are an extra

        return as_html(made)
    parts = [
        f"{heading(made.title, name, form)}\n{FORMATS[form](table).rstrip()}" for name, table in made.tables.items()
    ]
    notes = [f"% {note}" if form == "latex" else note for note in made.notes]
    return "\n\n".join([*parts, *(["\n".join(notes)] if notes else [])])


def heading(title: str, name: str, form: str) -> str:
    """The line above a table."""
    words = f"{title}: {name}" if name else title
    return {"markdown": f"**{words}**\n", "latex": f"% {words}"}.get(form, words)


if __name__ == "__main__":
    if {"-h", "--help"} & set(sys.argv[1:]):
        sys.exit(USAGE)
    try:
        print(compared(sys.argv[1:]))
    except (OSError, ValueError) as problem:
        sys.exit(f"error: {problem}")
