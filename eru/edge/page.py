"""The page that runs exported models in a browser: static files, which lie beside this one."""

from pathlib import Path

from eru.storage import atomic_write

_FILES = Path(__file__).with_name("web")


def write_page(folder: str | Path) -> None:
    """Write the page's files into a folder, beside its ``text`` (a language model) or ``pictures`` (a vision model).

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_page(folder)
        >>> (folder / "index.html").exists()
        True
    """
    for file in sorted(_FILES.iterdir()):
        if file.is_file():
            with atomic_write(Path(folder) / file.name, "wb") as target:
                target.write(file.read_bytes())
