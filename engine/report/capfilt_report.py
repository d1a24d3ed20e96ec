"""The report that a captioning-and-filtering run writes at its end."""

import logging
from pathlib import Path

from engine.config import ConfigError
from engine.report.capfilt_folder import read_capfilt
from engine.report.capfilt_part import CapFiltPart
from engine.report.page import Parts, build_page, write_page

log = logging.getLogger(__name__)
REPORT = "report.html"


def write_capfilt_report(root: Path, inputs: dict[str, Path]) -> str:
    """Write report.html into a run's folder. Several processes may do so at once: the last wins.

    Args:
        root: output_dir of the run.
        inputs: its input shards by name.

    Returns:
        Why there is no report, "" when there is one; nothing is raised.
    """
    try:
        folder = read_capfilt(root)
        if not {path.stem for path in folder.tables} <= inputs.keys():
            # Others share the folder and work on other shards.
            inputs = folder.inputs() | inputs
        parts = Parts(root=root, capfilt=CapFiltPart(folder, inputs), rounds=[], notes=[])
        write_page(build_page(parts, {}), root / REPORT)
    except ConfigError as error:
        return str(error)
    except OSError as error:
        return f"{root / REPORT}: {error.strerror}"
    except Exception as error:  # noqa: BLE001 - a finished run must not fail for its report
        log.debug("report", exc_info=True)
        return f"{type(error).__name__}: {error}"
    return ""
