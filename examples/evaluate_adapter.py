"""Measures a saved adapter and its base on the example's word problems.

python examples/evaluate_adapter.py --items 50
"""

from __future__ import annotations

import argparse
import os

# Everything needed is on this machine; set before transformers and peft are imported.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def parse_arguments() -> argparse.Namespace:
    argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
