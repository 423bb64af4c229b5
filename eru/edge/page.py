"""The page that runs exported models in a browser: static files, which lie beside this one."""

from pathlib import Path

from eru.storage import atomic_write, read_json

_FILES = Path(__file__).with_name("web")
_MARK = "package.json"  # which tells a page of ours from other files of the same names


def check_page(folder: str | Path) -> None:
    """Refuse a folder in which a page would take the place of somebody's own files.

    Raises:
        ValueError: A file or folder of a name of the page's is there, and it is no page of ours.
    """
    taken = [file.name for file in _page_files() if (Path(folder) / file.name).exists()]
    if not taken:
        return
    if _MARK in taken:
        mark = read_json(Path(folder) / _MARK)
        if isinstance(mark, dict) and mark.get("name") == read_json(_FILES / _MARK)["name"]:
            return
    raise ValueError(f"{folder} holds {taken[0]}, which the page would overwrite: choose another folder")


def write_page(folder: str | Path) -> None:
    """Write the page's files into a folder, beside its ``text`` (a language model) or ``pictures`` (a vision model).

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_page(folder)
        >>> (folder / "index.html").exists()
        True
    """
    for file in _page_files():
        with atomic_write(Path(folder) / file.name, "wb") as target:
            target.write(file.read_bytes())


def _page_files() -> list[Path]:
    """The files of a page; the one that marks it as ours comes first, so that half a page can be written again."""
    return sorted((file for file in _FILES.iterdir() if file.is_file()), key=lambda file: (file.name != _MARK, file))
