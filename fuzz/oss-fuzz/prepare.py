"""Write what OSS-Fuzz packs: a script, the seeds and a dictionary for each harness (`prepare.py TARGETS OUT`)."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)

from fuzz import harnesses, seeds  # noqa: E402

#: The script of one harness. It stands alone: PyInstaller follows its imports, and takes nothing else along.
SCRIPT = """\
import sys

import atheris

with atheris.instrument_imports(include=["stereos_proto", "stereos_proto_io"]):
    from fuzz import fuzz_{name} as harness
    from fuzz.mutate import mutate


def change(data, size, seed):
    if seed % 4 == 0:
        return bytes(atheris.Mutate(data, size))
    return mutate(data, size, seed, head=harness.HEAD, body=harness.BODY)


if __name__ == "__main__":
    atheris.Setup(sys.argv, harness.check, custom_mutator=change)
    atheris.Fuzz()
"""


def prepare(targets: Path, out: Path) -> None:
    """Write `NAME_fuzzer.py` into `targets`, and its seeds and dictionary into `out`, by the names that they go by."""
    for name in harnesses.NAMES:
        harness = harnesses.load(name)
        (targets / f"{name}_fuzzer.py").write_text(SCRIPT.format(name=name))
        (out / f"{name}_fuzzer.dict").write_text(seeds.written_dictionary())
        inputs = {*seeds.seeds(harness.HEAD, harness.BODY), *harnesses.kept(name)}
        with zipfile.ZipFile(out / f"{name}_fuzzer_seed_corpus.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for data in sorted(inputs):
                archive.writestr(harnesses.file_name(data), data)


if __name__ == "__main__":
    prepare(Path(sys.argv[1]), Path(sys.argv[2]))
