"""Run one harness under atheris: `python -m fuzz.run HARNESS [--seconds S] [--runs N] [--mode MODE]`.

Modes: `structured` changes inputs by what they are, `raw` by their bytes, both by turns is the default, `mixed`.
HARNESS is one of `harnesses.NAMES`, or `properties`, which drives the property tests by hypothesis' own reader.
A crash is written to --artifacts (default: build/fuzz/HARNESS) and ends the run; make it small with --minimize.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import atheris

from . import harnesses, seeds


def arguments() -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("harness", choices=(*harnesses.NAMES, harnesses.PROPERTIES))
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--runs", type=int, default=-1)
    parser.add_argument("--mode", choices=("mixed", "structured", "raw"), default="mixed")
    parser.add_argument("--seed", type=int, default=0, help="0 takes a new one each time")
    parser.add_argument("--short", action="store_true", help="inputs of the size that the harness asks for")
    parser.add_argument("--no-seeds", action="store_true", help="start from nothing")
    parser.add_argument("--corpus", type=Path, help="where to keep what is new (default: build/fuzz/HARNESS/corpus)")
    parser.add_argument("--artifacts", type=Path)
    parser.add_argument("--minimize", type=Path, metavar="CRASH", help="make this crash small instead")
    return parser.parse_args()


def folders(options: argparse.Namespace) -> tuple[Path, Path]:
    """Where new inputs and crashes go; both exist."""
    corpus = options.corpus or harnesses.BUILD / options.harness / "corpus"
    artifacts = options.artifacts or harnesses.BUILD / options.harness
    for folder in (corpus, artifacts):
        folder.mkdir(parents=True, exist_ok=True)
    return corpus, artifacts


def start_corpus(options: argparse.Namespace, corpus: Path, harness: Any) -> None:
    """Write the seeds, where there are none yet."""
    if options.no_seeds:
        return
    for data in (*seeds.seeds(harness.HEAD, harness.BODY), *harnesses.kept(options.harness)):
        (corpus / harnesses.file_name(data)).write_bytes(data)


def mutator(mode: str, harness: Any) -> Callable[[bytes, int, int], bytes]:
    """The custom mutator of a mode."""
    from .mutate import mutate  # noqa: PLC0415  (after the imports that are instrumented)

    def change(data: bytes, size: int, seed: int) -> bytes:
        if mode == "mixed" and random.Random(seed).random() < 0.25:
            return bytes(atheris.Mutate(data, size))
        return mutate(data, size, seed, head=harness.HEAD, body=harness.BODY)

    return change


def main() -> None:
    """Instrument the library, then let libFuzzer call the harness. Does not return."""
    options = arguments()
    with atheris.instrument_imports(include=["stereos_proto", "stereos_proto_io"]):
        harness = harnesses.load(options.harness)
    corpus, artifacts = folders(options)
    command = [sys.argv[0], f"-artifact_prefix={artifacts}/", "-timeout=60", "-rss_limit_mb=2048"]
    command += [f"-max_len={harness.LONGEST if options.short else harnesses.LONGEST}", "-print_final_stats=1"]
    if options.seed:
        command.append(f"-seed={options.seed}")
    if options.minimize:
        command += ["-minimize_crash=1", f"-max_total_time={options.seconds}", str(options.minimize)]
    else:
        start_corpus(options, corpus, harness)
        dictionary = artifacts / "dictionary.txt"
        dictionary.write_text(seeds.written_dictionary())
        command += [f"-dict={dictionary}", f"-max_total_time={options.seconds}", f"-runs={options.runs}", str(corpus)]
    change = None if options.mode == "raw" or not harness.BODY else mutator(options.mode, harness)
    atheris.Setup(command, harness.check, custom_mutator=change) if change else atheris.Setup(command, harness.check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
