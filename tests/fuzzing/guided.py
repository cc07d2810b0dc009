"""``python -m tests.fuzzing.guided SECONDS``: all decoders under atheris, guided by what their code covers.

The first byte of an input chooses the decoder. libFuzzer ends the process: with 0, or with what was found.
"""

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["socket_tier", "models", "workers", "engineio", "itsdangerous"]):
    from tests.fuzzing.decoders import SEEDS, TARGETS

_CHOSEN = list(TARGETS.items())


def one_input(data: bytes) -> None:
    if data:
        _CHOSEN[data[0] % len(_CHOSEN)][1](data[1:])


def main() -> None:
    with tempfile.TemporaryDirectory() as corpus:
        for number, (name, _) in enumerate(_CHOSEN):
            for index, sample in enumerate(SEEDS[name]):
                (Path(corpus) / f"{name}-{index}").write_bytes(bytes([number]) + sample)
        limits = [f"-max_total_time={sys.argv[1]}", "-max_len=4096", "-rss_limit_mb=1024", "-timeout=10"]
        atheris.Setup([sys.argv[0], *limits, "-print_final_stats=1", corpus], one_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
