"""The pieces of report.py's page: its frame, sections, notes, lists and number formats."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any, Sequence

from evaluation.report.charts import Chart

SPLIT_TITLES = {"test": "Held-out views", "train": "Training views"}
METRIC_FORMATS = {"PSNR": (2, " dB"), "SSIM": (4, ""), "LPIPS": (4, ""), "L1": (4, "")}  # digits, unit
BEGINNING = (
    '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
    '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
    "style-src 'unsafe-inline'\">"
)
STYLE = Path(__file__).with_name("report.css")


def document(title: str, content: str) -> str:
    """Return the whole page, which loads no other files. `content` is HTML, `title` is plain text."""
    text = (
        f'{BEGINNING}<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>\n{STYLE.read_text(encoding='utf-8')}</style></head>\n"
        f"<body><main>\n{content}\n</main></body></html>\n"
    )
    return text.encode("utf-8", "replace").decode("utf-8")  # JSON may hold surrogates, UTF-8 cannot


def section(title: str, content: str) -> str:
    return f"<section><h2>{title}</h2>\n{content}</section>"


def note(text: str) -> str:
    """Return a note as HTML; `text` is HTML."""
    return f'<p class="note">{text}</p>'


def command(name: str, folder: Path) -> str:
    return f"<code>python {name} -m {escape(str(folder))}</code>"


def description(rows: dict[str, Any]) -> str:
    items = (f"<dt>{escape(str(label))}</dt><dd>{escape(str(value))}</dd>" for label, value in rows.items())
    return f"<dl>{''.join(items)}</dl>"


def figure(
    title: str, aside: str, chart: Chart, legend: Sequence[tuple[str, str]] = (), after: str = ""
) -> str:
    """Return a chart under its title as HTML. legend: style and text of each key."""
    keys = "".join(f'<span class="key {style}">{escape(text)}</span>' for style, text in legend)
    return (
        f"<figure><h3>{escape(title)} <span>{escape(aside)}</span></h3>{chart.svg()}"
        f"<figcaption>{keys}{after}</figcaption></figure>"
    )


def grid(figures: Sequence[str]) -> str:
    """Return the figures side by side as HTML; empty if all of them are empty."""
    return f'<div class="grid">{"".join(figures)}</div>' if any(figures) else ""


def format_metric(metric: str, value: float | None) -> str:
    digits, unit = METRIC_FORMATS[metric]
    return "–" if value is None else f"{value:.{digits}f}{unit}"


def size_of(count: float) -> str:
    if count < 1e6:
        return f"{count / 1e3:,.1f} kB"
    return f"{count / 1e6:,.1f} MB" if count < 1e9 else f"{count / 1e9:,.2f} GB"


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
