"""Measures a saved adapter and its base on the example's word problems.

    python examples/evaluate_adapter.py --items 50
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

# Everything needed is on this machine; set before transformers and peft are imported.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch

from equations import data
from equations.arguments import BASE_MODEL, add_path_arguments, positive
from equations.evaluation import measure
from equations.model import ModelError, load_adapter, load_base


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
