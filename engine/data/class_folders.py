"""A folder for each class: `FOLDER/CLASS/.../picture.png`; the class is the picture's text."""

from pathlib import Path

import xxhash

from engine.config import ConfigError
from engine.data.picture_files import SUFFIXES, find_files, printable, read_picture
from engine.data.source import RawSample, stable_id


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
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._paths = find_files(folder, SUFFIXES)
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
        name = path.relative_to(self.folder).parts[0].replace("_", " ")
        return RawSample(key, key, "", [name], stable_id(str(path.resolve())), content, problem)
