"""What an accelerator makes of the product: is it right, and where do a step's milliseconds go.

    python -m benchmarks.device --out FILE

Needs nothing but the accelerator: models, adapters and texts are made up. Its parts, one a file,
run in the order of `__main__.PARTS`; one that fails or takes too long leaves the others alone.
"""
