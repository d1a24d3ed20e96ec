"""A folder for each class: `FOLDER/CLASS/.../picture.png`; the class is the picture's text."""

from pathlib import Path

import xxhash

from engine.config import ConfigError
from engine.data.captions import clean_caption
from engine.data.images import BadSample
from engine.data.picture_files import SUFFIXES, find_files, printable, read_picture
from engine.data.source import RawSample, stable_id

# Of a class's name.
MAX_WORDS = 30


def has_classes(folder: Path) -> bool:
    """Whether a folder has folders with pictures in it.

    Raises:
        ConfigError: it cannot be read, or pictures stand beside those folders, in no class.
    """
    try:
        parts = sorted(folder.iterdir())
    except OSError as error:
        raise ConfigError(f"{folder}: {error.strerror}") from None
    if not any(part.is_dir() and find_files(part, SUFFIXES) for part in parts):
        return False
    for part in parts:
        hidden = part.name.startswith(".")
        if not hidden and part.suffix.lower() in SUFFIXES and part.is_file():
            raise ConfigError(
                f"{folder}: {printable(part.name)} stands beside the folders of the classes: move "
                "it into the folder of its class, or out of this one"
            )
    return True


class ClassFolders:
    """Pictures whose text is the name of the folder they are in, `_` read as a space.

    Args:
        folder: with a folder for each class.

    Raises:
        ConfigError: a folder whose name has no words, or two whose names read the same.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # One by one: each may be a link, which is not followed further down.
        classes = sorted(part for part in folder.iterdir() if part.is_dir())
        found = {p: find_files(p, SUFFIXES) for p in classes if not p.name.startswith(".")}
        _refuse_alike(folder, [_class_name(part) for part, paths in found.items() if paths])
        self._paths = [path for paths in found.values() for path in paths]
        self.lengths = [len(self._paths)]

    def __len__(self) -> int:
        return len(self._paths)

    @property
    def fingerprint(self) -> str:
        """Hash of the names."""
        names = "\0".join(str(path.relative_to(self.folder)) for path in self._paths)
        return xxhash.xxh3_128_hexdigest(names.encode("utf-8", "surrogatepass"))

    def read(self, number: int) -> RawSample:
        """A picture and its class."""
        path = self._paths[number]
        key = str(path.relative_to(self.folder))
        content, problem = read_picture(path)
        name = _class_name(self.folder / path.relative_to(self.folder).parts[0])
        return RawSample(key, key, "", [name], stable_id(str(path.resolve())), content, problem)


def _class_name(folder: Path) -> str:
    return folder.name.replace("_", " ")


def _refuse_alike(folder: Path, names: list[str]) -> None:
    read: dict[str, str] = {}
    for name in names:
        try:
            words = clean_caption(name, MAX_WORDS)
        except BadSample:
            raise ConfigError(
                f"{folder}: no words are in the name of the folder {printable(name)!r}, and it is "
                "the name of a class"
            ) from None
        if read.setdefault(words, name) != name:
            raise ConfigError(
                f"{folder}: the folders {printable(read[words])!r} and {printable(name)!r} are one "
                f"class to a model, which reads {words!r}"
            )
