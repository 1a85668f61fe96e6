"""What every long job shares: run folder, config files, seeds, progress, metric log, report, safe writing."""

from pauca.runs.config import check_obeyed, from_dict, from_yaml, to_dict, to_yaml
from pauca.runs.devices import resolve_device
from pauca.runs.files import atomic_write, check_can_write, json_text, sha256_of, write_text
from pauca.runs.folder import Run, describe_machine, processor_name
from pauca.runs.lock import lock_folder
from pauca.runs.pictures import check_picture, save_figure
from pauca.runs.progress import Progress
from pauca.runs.report import Report
from pauca.runs.seeds import seed_all, seed_of
from pauca.runs.threads import fit_threads, share_processors, usable_cores

__all__ = [
    "Progress",
    "Report",
    "Run",
    "atomic_write",
    "check_can_write",
    "check_obeyed",
    "check_picture",
    "describe_machine",
    "fit_threads",
    "from_dict",
    "from_yaml",
    "json_text",
    "lock_folder",
    "processor_name",
    "resolve_device",
    "save_figure",
    "seed_all",
    "seed_of",
    "sha256_of",
    "share_processors",
    "to_dict",
    "to_yaml",
    "usable_cores",
    "write_text",
]
