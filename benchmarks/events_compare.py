"""What pauca reads and does beside eventcv and faery: prints the page docs/events/compare.md.

    python benchmarks/events_compare.py --peer-python PYTHON [--markdown docs/events/compare.md] [--json PATH]

Every tool reads every sample file of the data that PAUCA_DATA names, and files that are damaged here on purpose; each
read is a process of its own, so that a crash is an answer, too. Times are the best of several runs, in processor time
of one core. The functions that the page names are looked for: one that is missing ends the benchmark.
"""

import argparse
import gzip
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from pauca.runs import describe_machine

DATA = (
    Path(os.environ.get("PAUCA_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")) / "events" / "formats"
)
RUNS = 40  # what is warm only after some twenty: memory, and the processor's guesses
TOOLS = ("pauca", "eventcv", "faery")

# Each child prints one line of JSON: how many events, first and last time (us), how many ON, the best seconds.
CHILD = """
import json, logging, sys, time, warnings
tool, path, runs = sys.argv[1], sys.argv[2], int(sys.argv[3])
said = []
class Heard(logging.Handler):
    def emit(self, record): said.append(record.getMessage())
logging.getLogger().addHandler(Heard())
if tool == "pauca":
    from pauca import events
    def read():
        found = events.read(path).events
        return len(found), found.t_us, found.p
elif tool == "eventcv":
    import eventcv
    def read():
        found = eventcv.load(path)
        table = found.numpy()
        return len(table), (table[:, 2], 1000 * found.timestamp_scale_ms), table[:, 3]
else:
    import faery
    def read():
        found = faery.events_stream_from_file(path).to_array()
        return len(found), found["t"], found["p"]
best = float("inf")
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    try:
        for _ in range(runs):
            n = t = p = None  # what the last run took is free
            start = time.process_time()
            n, t, p = read()
            best = min(best, time.process_time() - start)
        if tool == "eventcv":
            t = t[0].astype(float) * t[1]
        answer = {"events": int(n), "seconds": best}
        if n:
            answer |= {"first_us": int(t[0]), "last_us": int(t[-1]), "on": int((p != 0).sum())}
            steps = t[1:].astype("i8") - t[:-1].astype("i8")
            answer["back"] = int((steps < 0).sum())
    except BaseException as error:
        answer = {"error": f"{type(error).__name__}: {error}"[:400]}
answer["said"] = [str(w.message)[:300] for w in caught] + said
print(json.dumps(answer))
"""

VERSIONS = """
import json
from importlib.metadata import version
print(json.dumps({name: version(name) for name in ("eventcv", "faery")}))
"""

# Task: the public names in each tool; None where its public names hold none.
TASKS: tuple[tuple[str, str | None, str | None, str | None], ...] = (
    ("read a recording at once", "read", "load", "events_stream_from_file"),
    ("read it chunk by chunk", "open_events", "open", "FiniteEventsStream.chunks"),
    ("write one", "write", "save", "FiniteEventsStream.to_file"),
    ("say what was dropped or repaired", "ReadReport", None, None),
    ("name faults of a camera (flicker, dead pixels, clock jumps, ...)", "check", None, None),
    ("leave out hot pixels", "remove_hot_pixels", "hot_pixel_filter", "FiniteEventsStream.filter_hot_pixels"),
    ("leave out background noise", "remove_noise", "background_activity_filter", None),
    ("undo the lens, radtan", "Camera", "Camera", None),
    ("undo the lens, fisheye; calibrations of Kalibr, ROS, OpenCV, DV, DSEC", "Camera.from_file", None, None),
    ("velocity of a packet", "Aligner.align", "contrast_maximise", None),
    ("velocity over a recording, each with covariance and status", "align", None, None),
    ("velocity as a function of time", "refine", None, None),
    ("panorama and orientation without drift", "panorama", None, None),
    ("time offset, mounting and bias of a gyroscope", "fit_gyro", None, None),
    ("error against a truth, by published protocols", "evaluate", None, None),
    ("simulate a turning camera with exact velocities", "simulate", None, None),
    ("simulate from a video", None, "simulate", None),
    ("datagrams of a live camera", "live.receive", "UdpReceiver", "events_stream_from_udp"),
    ("drive a camera", None, "EventCamera", "events_stream_from_camera"),
    ("time surfaces, voxel grids, augmentations", None, "voxel", None),
    ("corners, optical flow", None, "optical_flow", None),
    ("reconstruct images by a network", None, "reconstruct", None),
    ("spectrograms, kinectographs", None, None, "FiniteEventsStream.to_spectrogram"),
)
FINDS = """
import importlib, json, sys
tool, names = sys.argv[1], sys.argv[2:]
module = importlib.import_module({"pauca": "pauca.events"}.get(tool, tool))
if tool == "pauca": importlib.import_module("pauca.events.live")
lacking = []
for name in names:
    at = module
    for part in name.split("."):
        if part == "live" and tool == "pauca": at = importlib.import_module("pauca.events.live"); continue
        at = getattr(at, part, None)
    if at is None: lacking.append(name)
print(json.dumps(lacking))
"""


def python_of(tool: str, peer_python: str) -> str:
    return sys.executable if tool == "pauca" else peer_python


def answer_of(tool: str, path: Path, peer_python: str, runs: int = RUNS) -> dict[str, Any]:
    """What a tool makes of a file."""
    try:
        done = subprocess.run(
            [python_of(tool, peer_python), "-c", CHILD, tool, str(path), str(runs)],
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"error": "no answer in two minutes", "said": []}
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        return {"error": f"ended with code {done.returncode}: {done.stderr.strip()[-200:]}", "said": []}
    answer = json.loads(lines[-1])
    if done.stderr.strip():
        answer["said"].append(done.stderr.strip().splitlines()[-1][:300])
    return answer


def bad_files(folder: Path) -> dict[str, tuple[Path, int]]:
    """Files with one fault each, and how many events they held before."""
    rng = np.random.default_rng(0)
    made: dict[str, tuple[Path, int]] = {}

    def put(title: str, name: str, data: bytes, count: int) -> None:
        (folder / name).write_bytes(data)
        made[title] = folder / name, count

    raw = (DATA / "faery_evt2.raw").read_bytes()
    put("EVT2, cut in the middle of a word", "cut.raw", raw[: len(raw) * 2 // 3 + 1], 521_252)
    flipped = bytearray(raw)
    for at in rng.integers(1000, len(raw), 50):
        flipped[at] ^= 1 << int(rng.integers(8))
    put("EVT2, 50 flipped bits", "flipped.raw", bytes(flipped), 521_252)
    aedat = (DATA / "tonic_sample_dvxplorer.aedat4").read_bytes()
    put("AEDAT4, cut in the middle of a packet", "cut.aedat4", aedat[: len(aedat) * 2 // 3], 0)
    n = 5000
    t, x, y = np.cumsum(rng.integers(1, 40, n)), rng.integers(0, 240, n), rng.integers(0, 180, n)
    lines = [f"{a},{b},{c},{d}" for a, b, c, d in zip(t, x, y, rng.integers(0, 2, n), strict=True)]

    def text(title: str, name: str, changed: list[str]) -> None:
        put(title, name, ("t,x,y,p\n" + "\n".join(changed) + "\n").encode(), n)

    text("CSV as it should be", "good.csv", lines)
    text("CSV, a time that is no number", "nan.csv", [*lines[:2000], "nan,5,5,1", *lines[2001:]])
    text("CSV, a time an hour too late", "late.csv", [*lines[:2000], f"{t[2000] + 3_600_000_000},5,5,1", *lines[2001:]])
    text("CSV, two halves swapped", "swapped.csv", lines[2500:] + lines[:2500])
    text("CSV, a polarity of 2", "polarity.csv", [*lines[:2000], f"{t[2000]},5,5,2", *lines[2001:]])
    text("CSV, a pixel at -3", "pixel.csv", [*lines[:2000], f"{t[2000]},-3,5,1", *lines[2001:]])
    text("CSV, cut in the middle of a line", "cut.csv", [*lines[:-1], lines[-1][:-3]])
    seconds = [f"{a / 1000:.3f}," + line.partition(",")[2] for a, line in zip(t, lines, strict=True)]
    text("CSV, in milliseconds with decimals", "ms.csv", seconds)
    zipped = gzip.compress("\n".join(line.replace(",", " ") for line in lines).encode(), mtime=0)
    put("gzip of a text, cut", "cut.txt.gz", zipped[: len(zipped) * 2 // 3], n)
    return made


def measured(peer_python: str) -> dict[str, Any]:
    for index, tool in enumerate(TOOLS, 1):
        names = [task[index] for task in TASKS if task[index] is not None]
        done = subprocess.run(
            [python_of(tool, peer_python), "-c", FINDS, tool, *names], capture_output=True, text=True, check=True
        )
        if lacking := json.loads(done.stdout):
            raise SystemExit(f"{tool} has no {', '.join(lacking)}: mend TASKS")
    versions = json.loads(
        subprocess.run([peer_python, "-c", VERSIONS], capture_output=True, text=True, check=True).stdout
    )
    files = sorted(path for path in DATA.iterdir() if path.suffix not in (".npy", ".mat"))
    reads = {path.name: {tool: answer_of(tool, path, peer_python) for tool in TOOLS} for path in files}
    reads = json.loads(json.dumps(reads).replace(f"{DATA}/", ""))
    with tempfile.TemporaryDirectory() as name:
        bad = {
            title: {"held": held} | {tool: answer_of(tool, path, peer_python, 1) for tool in TOOLS}
            for title, (path, held) in bad_files(Path(name)).items()
        }
    for answers in bad.values():
        for tool in TOOLS:
            answers[tool] = json.loads(json.dumps(answers[tool]).replace(f"{name}/", ""))
    return {"machine": describe_machine(), "versions": versions, "reads": reads, "bad": bad}


def page(found: dict[str, Any]) -> str:
    """The page in Markdown."""
    versions = found["versions"]
    heads = ["pauca", f"eventcv {versions['eventcv']}", f"faery {versions['faery']}"]
    lines = [
        "# Beside other tools",
        "",
        "This page is printed by `python benchmarks/events_compare.py`: every cell is what a tool answered in that",
        "run, with its default options, or a public name that was found there. "
        f"{found['machine']['processor']}, one core, busy.",
        "",
        "## What each does",
        "",
        "The function that does it; a dash where no public name of that version does. Velocities are compared in",
        "[Measured](measured.md).",
        "",
        *_table(["", *heads], [[task, *(f"`{name}`" if name else "-" for name in names)] for task, *names in TASKS]),
        "",
        "## What each reads",
        "",
        "Events that each found, and in parentheses millions of events a second of processor time, up to an array of",
        "events. pauca checks and repairs what it decodes, and reads inertial samples and images' times as well. Where",
        "the duration or the ON events differ from pauca's, it is said.",
        "",
        *_table(["file", *heads], [[f"`{name}`", *_reads(answers)] for name, answers in found["reads"].items()]),
        "",
        "## What each says of bad files",
        "",
        "*Silent*: events are returned without a word. What is quoted is the beginning of a refusal or of a warning.",
        "",
        *_table(
            ["file", *heads],
            [[title, *(_said(answers[tool]) for tool in TOOLS)] for title, answers in found["bad"].items()],
        ),
        "",
    ]
    return "\n".join(lines)


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def _reads(answers: dict[str, dict[str, Any]]) -> list[str]:
    ours, cells = answers["pauca"], []
    for tool in TOOLS:
        answer = answers[tool]
        if "error" in answer:
            cells.append(f"no: “{_quoted(answer['error'].partition(': ')[2], 60)}”")
            continue
        cell = f"{answer['events']:,}"
        if answer["events"]:
            cell += f" ({answer['events'] / answer['seconds'] / 1e6:.1f})"
        cells.append(cell + _differences(answer, ours))
    return cells


def _differences(answer: dict[str, Any], ours: dict[str, Any]) -> str:
    if "error" in ours or not answer["events"]:
        return ""
    told = []
    span, own = (each["last_us"] - each["first_us"] for each in (answer, ours))
    if abs(span - own) > 1:
        told.append(f"{span / 1e6:.6g} s instead of {own / 1e6:.6g}")
    if answer["on"] != ours["on"]:
        told.append(f"{answer['on']:,} ON instead of {ours['on']:,}")
    return f"; {', '.join(told)}" if told else ""


def _said(answer: dict[str, Any]) -> str:
    if "error" in answer:
        return f"refuses: “{_quoted(answer['error'].partition(': ')[2])}”"
    cell = f"{answer['events']:,} events"
    if answer["events"] and answer["back"]:
        cell += f", {answer['back']} steps back in time"
    if answer["events"] and (span := (answer["last_us"] - answer["first_us"]) / 1e6) > 3000:
        cell += f", {span:,.0f} s long"
    return f"{cell}; “{_quoted(_finding(answer['said'][-1]))}”" if answer["said"] else f"{cell}; *silent*"


def _finding(text: str) -> str:
    """Of a report of several findings, separated by semicolons, the first that tells of something lost."""
    parts = text.split("; ")
    return next((part for part in parts if part.startswith(("dropped", "lost", "repaired"))), text)


def _quoted(text: str, longest: int = 110) -> str:
    words = " ".join(text.split()).replace("|", "/").replace("`", "'")
    return words if len(words) <= longest else words[: longest - 3].rsplit(" ", 1)[0] + " ..."


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-python", required=True, help="Python of an environment with eventcv and faery")
    parser.add_argument("--markdown", type=Path, help="write the page here")
    parser.add_argument("--json", type=Path, help="write all answers here")
    options = parser.parse_args()
    found = measured(options.peer_python)
    text = page(found)
    print(text)
    if options.markdown:
        options.markdown.write_text(text, encoding="utf-8")
    if options.json:
        options.json.write_text(json.dumps(found, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
