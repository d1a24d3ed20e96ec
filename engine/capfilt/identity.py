"""What the bytes of a run depend on, besides its input: a folder holds one run only."""

import json
import os
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import xxhash
import yaml

from engine.capfilt.config import CapFiltConfig, RuleSection
from engine.capfilt.folder import IDENTITY, SETTINGS, OutputFolder, put, write_file
from engine.config import ConfigError, to_dict
from engine.differences import differences, flat
from engine.inference import LoadedBlip

# 2: slots of captions that have ended are refilled; 3: captions attend to states of pictures, and a
# CPU's bf16 products are packed; 4: its fp32 products too, with threads that are named. Each rounds
# otherwise than before.
FORMAT = 4
# Whose tables and ledgers are those of today.
READABLE = (3, 4)


def hash_weights(model: torch.nn.Module) -> str:
    """xxh3_128 over names and values of a model's weights, whatever file they came from."""
    state = xxhash.xxh3_128()
    for name, tensor in sorted(model.state_dict().items()):
        state.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        state.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return state.hexdigest()


def of_models(config: CapFiltConfig, captioner: LoadedBlip, scorer: LoadedBlip) -> dict[str, Any]:
    """The identity of a run that captions and scores.

    Paths and everything else that changes no byte is left out. So are the library versions and the
    model of the processor, which may round otherwise: machines that share a folder should be alike.
    """
    parts = {"captioner": captioner, "filter": scorer}
    found = of_settings(config) | {
        "device": captioner.device.type,
        "image_size": {n: blip.model.config.image_size for n, blip in parts.items()},
        "weights": {name: hash_weights(blip.model) for name, blip in parts.items()},
        "vocabulary": xxhash.xxh3_128_hexdigest(captioner.tokenizer.path.read_bytes()),
    }
    if (found["device"], found["precision"]) == ("cpu", "fp32"):
        # How products are cut among threads decides how they are summed; in bf16 no shape was found
        # where it does (tests/blip_model/test_stored_products.py).
        found["threads"] = torch.get_num_threads()
    return found


def of_settings(config: CapFiltConfig) -> dict[str, Any]:
    """The part of the identity that no weights are needed for."""
    found = {
        "format": FORMAT,
        "seed": config.seed,
        "precision": config.precision,
        "batch_size": config.batch_size,
        "caption": config.caption.resolved(),
        "data": {
            name: getattr(config.data, name) for name in ("max_words", "max_tokens", "max_pixels")
        },
        "rule": named_rule(config.rule),
    }
    on_gpu = config.device == "cuda" or (config.device == "auto" and torch.cuda.is_available())
    if config.threads and config.precision == "fp32" and not on_gpu:
        found["threads"] = config.threads
    return found


def named_rule(rule: RuleSection) -> dict[str, Any]:
    """A rule without `drop_not_words` where it is off: runs from before there was it can go on."""
    named = asdict(rule)
    if not named["drop_not_words"]:
        del named["drop_not_words"]
    return named


def read_identity(root: Path, *, to_continue: bool = True) -> dict[str, Any] | None:
    """The identity of the run that a folder holds, or None where it holds none.

    Args:
        root: the folder.
        to_continue: shards are to be made beside those in it, not its scores to be read alone.

    Raises:
        ConfigError: it holds something else, a damaged one, or one of another version.
    """
    path = root / IDENTITY
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        version = int(found["format"])
        if not (isinstance(found["rule"], dict) and isinstance(found["caption"], dict)):
            raise ValueError
        int(found["seed"])
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigError(
            f"{path}: damaged, it does not say what run this is: choose another output_dir"
        ) from None
    if version not in ((FORMAT,) if to_continue else READABLE):
        remedy = "choose another output_dir"
        if to_continue and version in READABLE:
            remedy += f", or take its captions and scores with --from_table {root}"
        raise ConfigError(
            f"{path}: made by another version, whose numbers are rounded otherwise (format "
            f"{version}, this one's is {FORMAT}): {remedy}"
        )
    return found


def hash_identity(identity: dict[str, Any]) -> str:
    """Short name of an identity, the same for equal ones."""
    return xxhash.xxh3_128_hexdigest(json.dumps(identity, sort_keys=True).encode())


def refuse_other(config: CapFiltConfig, identity: dict[str, Any], *, whole: bool = True) -> None:
    """Refuse a folder that holds another run.

    Args:
        config: of the run.
        identity: of the run, or a part of it.
        whole: whether it is all of it, so that nothing else may be in the folder's.

    Raises:
        ConfigError: lists what differs; or the folder is no run's, or resume is `none`.
    """
    root = Path(config.output_dir)
    if root.exists() and not root.is_dir():
        raise ConfigError(f"output_dir {root} is a file")
    found = read_identity(root)
    if found is None:
        strangers = sorted(p.name for p in root.iterdir())[:1] if root.is_dir() else []
        if strangers and strangers != [".work"]:
            raise ConfigError(
                f"output_dir {root} holds {strangers[0]} but no captioning-and-filtering run: "
                "choose another output_dir"
            )
        return
    if config.resume == "none":
        raise ConfigError(
            f"{root} holds a run already: choose another output_dir, or leave resume at auto to "
            "continue it"
        )
    theirs, ours = flat(found), flat(identity)
    if not whole:
        theirs = {key: value for key, value in theirs.items() if key in ours}
    differing = differences(theirs, ours)
    if differing:
        raise ConfigError(
            f"{root} was made with other settings or weights ({', '.join(differing)}): give the "
            "same ones to continue, or choose another output_dir"
        )


def settle(folder: OutputFolder, config: CapFiltConfig, identity: dict[str, Any]) -> None:
    """Make the folder this run's; of several processes at once the first one does.

    Raises:
        ConfigError: another run was faster, or the folder cannot be written.
    """
    folder.make()
    temporary = folder.root / ".work" / f"{IDENTITY}.{uuid.uuid4().hex}"
    try:
        write_file(temporary, (json.dumps(identity, indent=1) + "\n").encode())
        first = _claim(temporary, folder.root / IDENTITY)
        refuse_other(config, identity)
        # Only now: they are those of the run whose folder it is.
        if first or not (folder.root / SETTINGS).exists():
            text = yaml.safe_dump(to_dict(config), sort_keys=False)
            # It may be the identity's second name.
            temporary.unlink(missing_ok=True)
            write_file(temporary, text.encode())
            put(temporary, folder.root / SETTINGS)
    except OSError as error:
        problem = f"cannot be written: {error.strerror}"
        raise ConfigError(f"output_dir {folder.root}: {problem}") from None
    finally:
        temporary.unlink(missing_ok=True)


def _claim(source: Path, target: Path) -> bool:
    """Give a file a second name unless the name is taken; whether it was free."""
    try:
        os.link(source, target)
    except FileExistsError:
        return False
    except OSError:
        # A filesystem without links: two different runs that start in the same instant are not
        # told apart here, but at the next start.
        if target.exists():
            return False
        os.replace(source, target)
    return True
