"""Runs the notebooks of the docs while the site is built, and shows them as pages with their pictures."""

import functools
import posixpath
from pathlib import Path
from typing import Any

import nbformat
from mkdocs.structure.files import File, Files
from nbclient import NotebookClient
from nbconvert import MarkdownExporter

SECONDS = 600
"""A cell that takes longer has failed."""


def on_files(files: Files, *, config: Any) -> Files:
    """Put a page, and its pictures, in the place of each notebook; a cell that fails ends the build."""
    for notebook in [file for file in files if file.src_uri.endswith(".ipynb")]:
        name = posixpath.splitext(notebook.src_uri)[0]
        markdown, pictures = _executed(
            Path(notebook.abs_src_path).read_text(encoding="utf-8"), posixpath.basename(name)
        )
        files.append(File.generated(config, f"{name}.md", content=markdown))
        for picture, content in pictures.items():
            path = posixpath.join(posixpath.dirname(name), picture)
            files.append(File.generated(config, path, content=content))
    return files


@functools.cache  # `mkdocs serve` builds again whenever any page changes
def _executed(text: str, name: str) -> tuple[str, dict[str, bytes]]:
    """The notebook as Markdown after it ran, and its pictures by name."""
    notebook = nbformat.reads(text, as_version=4)
    NotebookClient(notebook, timeout=SECONDS, kernel_name="python3").execute()
    names = {"unique_key": name, "output_files_dir": f"{name}_pictures"}
    markdown, resources = MarkdownExporter().from_notebook_node(notebook, resources=names)
    return markdown, resources["outputs"]
