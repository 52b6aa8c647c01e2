"""The command: speech, examples, training, export, evaluation, one after the other."""

import argparse
import importlib.util
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import track

from . import evaluate, export, speech
from .errors import TrainingError
from .examples import Example, Recipe, load_examples, make_example, save_examples
from .tokens import Targets, build_tokenizer

REPOSITORY = Path(__file__).resolve().parents[2]
TORCH_HELP = (
    "torch is missing: `pip install torch==2.13.0`. Only this training needs it; the project does not depend on it"
)
SECONDS_MAX = 10.0
# Out of the way of the training seeds, which count from zero.
VALIDATION_SEED = 10**7
VALIDATION_CLIPS = 60

Job = TypeVar("Job")
Outcome = TypeVar("Outcome")


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="train.py",
        description="Makes the demonstration model again from nothing: espeak-ng speaks the phrases of a "
        "small grammar, a tiny Whisper learns them, and its word error rate on held-out phrases and voices "
        "is printed.",
        epilog="A quick trial of the whole way: --minutes 0.2 --clips 200. "
        "The result of that is no model, only proof that the way is open.",
    )
    parser.add_argument("--minutes", type=float, default=40.0, help="training time (default: %(default)s)")
    parser.add_argument(
        "--steps", type=int, help="train this many steps instead: then the machine's speed does not matter"
    )
    parser.add_argument("--clips", type=int, default=10_000, help="spoken clips (default: %(default)s)")
    parser.add_argument(
        "--examples",
        type=int,
        help="training windows made of the clips (default: 1.5 times the clips)",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on from the last checkpoint in the work folder, for as many minutes or steps again",
    )
    parser.add_argument(
        "--learning-rate",
        type=float,
        default=1.4e-3,
        help="the highest; less to resume (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="processes and threads (default: %(default)s)")
    parser.add_argument(
        "--no-bf16", action="store_true", help="train in float32: quicker on a processor without bfloat16"
    )
    parser.add_argument(
        "--work",
        type=Path,
        default=REPOSITORY / ".cache" / "demo-model",
        help="folder for everything in between, used again by the next run (default: .cache/demo-model)",
    )
    parser.add_argument("--out", type=Path, help="folder for the model (default: `model` in the work folder)")
    parser.add_argument(
        "--test-clips", type=int, default=200, help="held-out clips to measure with (default: %(default)s)"
    )
    parser.add_argument(
        "--evaluate", type=Path, metavar="MODEL", help="train nothing, only measure the model in this folder"
    )
    options = parser.parse_args(arguments)
    for name in ("minutes", "clips", "threads", "test_clips"):
        if getattr(options, name) <= 0:
            parser.error(f"--{name.replace('_', '-')} must be more than 0")
    if options.examples is None:
        options.examples = options.clips * 3 // 2
    return options


def _parallel(
    function: Callable[[Job], Outcome], jobs: Sequence[Job], processes: int, title: str, console: Console
) -> list[Outcome]:
    """`function` of each job, in order, in several processes, with a progress bar."""
    # Fresh processes, as a fork next to the bar's thread could hang.
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        outcomes = pool.map(function, jobs, chunksize=max(1, min(50, len(jobs) // (4 * processes))))
        return list(track(outcomes, title, total=len(jobs), console=console))


def _clips(options: argparse.Namespace, console: Console) -> Path:
    path: Path = options.work / f"clips-{options.seed}-{options.clips}.npz"
    if not path.exists():
        first = options.seed * VALIDATION_SEED
        seeds = range(first, first + options.clips)
        clips = _parallel(speech.speak_training_clip, seeds, options.threads, "Speaking", console)
        partial = path.with_name(f"partial-{path.name}")
        speech.save_clips(partial, clips)
        partial.rename(path)
    return path


def _validation_clips(options: argparse.Namespace) -> Path:
    path: Path = options.work / "clips-validation.npz"
    if not path.exists():
        utterances = speech.held_out_utterances(VALIDATION_CLIPS, VALIDATION_SEED)
        speech.save_clips(path, [speech.speak(one) for one in utterances])
    return path


def _examples(options: argparse.Namespace, clips: Path, console: Console) -> list[Example]:
    folder = options.work / f"examples-{options.seed}-{options.clips}-{options.examples}"
    if not folder.exists():
        first = options.seed * VALIDATION_SEED
        recipes = [
            # Two windows in three hold one phrase, the third up to three.
            Recipe(clips, first + index, phrases_max=3 if index % 3 == 0 else 1, seconds_max=SECONDS_MAX)
            for index in range(options.examples)
        ]
        examples = _parallel(make_example, recipes, options.threads, "Degrading", console)
        partial = folder.with_name(f"partial-{folder.name}")
        save_examples(partial, examples)
        partial.rename(folder)
    return load_examples(folder)


def _train(options: argparse.Namespace, console: Console) -> Path:
    if importlib.util.find_spec("torch") is None:
        raise TrainingError(TORCH_HELP)
    from .training import Plan, train

    options.work.mkdir(parents=True, exist_ok=True)
    examples = _examples(options, _clips(options, console), console)
    validation = [
        make_example(Recipe(_validation_clips(options), VALIDATION_SEED + index, 1, SECONDS_MAX))
        for index in range(VALIDATION_CLIPS)
    ]
    tokenizer = build_tokenizer()
    plan = Plan(
        minutes=options.minutes,
        steps=options.steps,
        threads=options.threads,
        seed=options.seed,
        bf16=not options.no_bf16,
        learning_rate=options.learning_rate,
        resume=options.resume,
    )
    checkpoint = options.work / "checkpoint.pt"
    if plan.resume and not checkpoint.exists():
        raise TrainingError(f"there is no {checkpoint} to go on from: start without --resume")
    weights = train(plan, examples, validation, Targets(tokenizer), checkpoint)
    folder: Path = options.out or options.work / "model"
    export.export(folder, weights, tokenizer)
    return folder


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0, or 1 after an error that has been explained."""
    options = _arguments(arguments)
    console = Console()
    started_s = time.monotonic()
    try:
        speech.espeak_command()
        folder = options.evaluate or _train(options, console)
        missing = [name for name in export.MODEL_FILES if not (folder / name).is_file()]
        if missing:
            raise TrainingError(f"{folder} is no model folder: it lacks {', '.join(missing)}")
        report = evaluate.evaluate(folder, options.test_clips, console)
    except TrainingError as error:
        print(f"error: {error}.", file=sys.stderr)
        return 1
    evaluate.show(report, console)
    options.work.mkdir(parents=True, exist_ok=True)
    evaluate.save(report, options.work / "report.json")
    minutes = (time.monotonic() - started_s) / 60
    console.print(f"{folder}: {export.size_bytes(folder):,} bytes, {minutes:.1f} minutes in all.")
    console.print(f"Every mistake is in {options.work / 'report.json'}.")
    return 0
