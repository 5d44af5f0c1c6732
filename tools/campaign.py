"""What the campaigns share: one case is one damaged input and one run of the real command line.

Each case runs `seggen_core.cli.main` in a forked child, so that a case can neither hang nor take
the campaign's memory; `--subprocess` starts a new interpreter for each case instead. The kernel
ends a child that takes too long.

A case ends in one of these ways:

    refused      exit 2 or 3, and one message
    harmless     exit 0, and the case says that the input may be taken
    accepted     exit 0, though the input is nonsense
    traceback    a traceback, or another exit code
    hang         it took longer than the limit
    memory       the child took more than the limit
"""

import argparse
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

OUTCOMES = ("refused", "harmless", "accepted", "traceback", "hang", "memory")
FINE = ("refused", "harmless")
_LONGEST_MESSAGE = 8000


@dataclass(frozen=True)
class Case:
    """A damaged input.

    Attributes:
        name: what was done to what.
        damage: is given the case's own folder and does it.
        is_nonsense: whether the input has to be refused; False takes exit 0 for harmless.
        command: arguments of `seggen`; None are the campaign's.
    """

    name: str
    damage: Callable[[Path], object]
    is_nonsense: bool = True
    command: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Campaign:
    """Cases, and how they are run."""

    title: str
    """Its name in the table."""
    prepare: Callable[[Path], object]
    """Makes the sound input in an empty folder, which a case then damages."""
    command: tuple[str, ...]
    """Arguments of `seggen`, run in that folder."""
    cases: Sequence[Case]
    """What is tried."""
    imports: tuple[str, ...] = ()
    """Modules that the parent imports once for all children."""
    seconds: int = 60
    """Longest time of a case."""
    megabytes: int = 2048
    """Most memory that a case may add to that of the parent."""
    examine: Callable[[Path], bool] | None = None
    """Looks at a folder that was taken; False counts it as accepted."""
    report: str | None = None
    """Text by which exit 1 is a refusal: `validate` reports all problems at once."""


@dataclass(frozen=True)
class Outcome:
    """How a case ended."""

    case: str
    """Name of the case, and what it did to the files."""
    kind: str
    """"refused", "accepted", "harmless", "traceback", "hang" or "memory"."""
    text: str
    """The last characters that it printed."""


def run_campaign(
    campaign: Campaign,
    *,
    in_subprocess: bool = False,
    report: Callable[[Outcome], object] = lambda _: None,
) -> list[Outcome]:
    """Run all cases in the order they are listed; `report` is given each outcome at once."""
    for module in campaign.imports:
        __import__(module)
    outcomes = []
    with tempfile.TemporaryDirectory() as scratch:
        sound = Path(scratch, "sound")
        sound.mkdir()
        campaign.prepare(sound)
        for case in campaign.cases:
            folder = Path(scratch, "case")
            shutil.copytree(sound, folder, symlinks=True)
            case.damage(folder)
            outcomes.append(_run_case(case, campaign, folder, in_subprocess=in_subprocess))
            report(outcomes[-1])
            shutil.rmtree(folder)
    return outcomes


def _run_case(case: Case, campaign: Campaign, folder: Path, *, in_subprocess: bool) -> Outcome:
    command = case.command or campaign.command
    log = folder.parent / "log"
    code, megabytes = (_spawn if in_subprocess else _fork)(command, folder, log, campaign.seconds)
    text = log.read_text(encoding="utf-8", errors="replace")
    if code == -signal.SIGALRM:
        kind = "hang"
    elif megabytes > campaign.megabytes:
        kind = "memory"
    elif code == 1 and campaign.report is not None and campaign.report in text:
        kind = "traceback" if "Traceback (most recent call last)" in text else "refused"
    elif "Traceback (most recent call last)" in text or code not in (0, 2, 3):
        kind = "traceback"
    elif code in (2, 3):
        message = text[text.rfind(f"seggen {command[0]}: ") :]
        is_one = message.startswith("seggen ") and len(message) < _LONGEST_MESSAGE
        kind = "refused" if is_one else "traceback"
    elif case.is_nonsense or (campaign.examine is not None and not campaign.examine(folder)):
        kind = "accepted"
    else:
        kind = "harmless"
    note = folder / "damaged"  # what a case chose once it saw the files
    name = f"{case.name}: {note.read_text(encoding='utf-8')}" if note.is_file() else case.name
    return Outcome(name, kind, text[-1500:])


def _fork(command: Sequence[str], folder: Path, log: Path, seconds: int) -> tuple[int, float]:
    """Run the command line in a child; return its exit code and the megabytes that it added."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        signal.alarm(seconds)  # its default action ends the process, whatever it waits for
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")  # not those of a test
        os.chdir(folder)
        os._exit(_main(command))
    _, status, usage = os.wait4(child, 0)
    return os.waitstatus_to_exitcode(status), max(0, usage.ru_maxrss - before) / 1024


def _main(command: Sequence[str]) -> int:
    import traceback

    from seggen_core.cli import main

    try:
        code = main(list(command))
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:  # noqa: BLE001 (a case may end in any way)
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def _spawn(command: Sequence[str], folder: Path, log: Path, seconds: int) -> tuple[int, float]:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    with log.open("w") as output:
        try:
            done = subprocess.run(
                [sys.executable, "-m", "seggen_core", *command],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return -signal.SIGALRM, 0
    return done.returncode, 0


def table(title: str, outcomes: Iterable[Outcome], *, seconds: float) -> str:
    """Return a row of counts in Markdown, below its header."""
    counts = Counter(outcome.kind for outcome in outcomes)
    header = ["campaign", "tried", *OUTCOMES]
    row = [title, str(counts.total()), *(str(counts[kind]) for kind in OUTCOMES)]
    rule = ["---", *("---:" for _ in header[1:])]
    lines = ["| " + " | ".join(cells) + " |" for cells in (header, rule, row)]
    return "\n".join([*lines, f"\n{seconds:.0f} s"])


def run_tool(
    make: Callable[[int, random.Random], Campaign], *, about: str, count: int, argv: Sequence[str]
) -> int:
    """Run a campaign as a command; exit 1 if a case ended in a way that it must not."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--count", type=int, default=count, help="cases to try")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of cases")
    parser.add_argument("--subprocess", action="store_true", help="a new interpreter for each case")
    parser.add_argument("--only", default="", help="cases whose name holds this text")
    parser.add_argument("--verbose", action="store_true", help="print every case and its message")
    arguments = parser.parse_args(argv)
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    campaign = make(arguments.count, random.Random(arguments.seed))
    chosen = [case for case in campaign.cases if arguments.only in case.name]
    campaign = Campaign(**{**vars(campaign), "cases": chosen})
    start = time.monotonic()

    def report(outcome: Outcome) -> None:
        if arguments.verbose or outcome.kind not in FINE:
            text = f"{outcome.kind}: {outcome.case}\n    {outcome.text.strip()[-700:]}"
            print(text.encode(errors="replace").decode(), flush=True)

    outcomes = run_campaign(campaign, in_subprocess=arguments.subprocess, report=report)
    print(table(campaign.title, outcomes, seconds=time.monotonic() - start))
    return 0 if all(outcome.kind in FINE for outcome in outcomes) else 1
