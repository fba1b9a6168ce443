"""The report as one HTML file."""
import html
import json
import pathlib


def write(path, whole):
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"<!doctype html><pre>{html.escape(json.dumps(whole['loads'], indent=1))}</pre>", encoding="utf-8")
