"""CoLD in ten lines, without a server: `python examples/offline.py BASE_MODEL`."""

import sys
from pathlib import Path

from cold_backend import Cold

PROBLEM = "There are number0 apples and number1 pears . How many fruits are there ?"
ASK = f"Write this problem as an equation in prefix notation.\n{PROBLEM}"

ADAPTERS = {"equations": str(Path(__file__).parent / "adapters/equations")}

cold = Cold(sys.argv[1], adapters=ADAPTERS, max_context=512)
for decoding in ("base", "greedy", "cold"):
    (answer,) = cold.generate(
        [[{"role": "user", "content": ASK}]], decoding=decoding, max_tokens=32
    )
    print(f"{decoding:>6}: {answer.text}")
