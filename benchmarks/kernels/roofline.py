"""Floors of the kernels on an Ascend 910B3, on paper: prints the tables of docs/kernels.md."""

from __future__ import annotations

# 910B3: memory as in Huawei's examples; vector units: 40 of 64 float32 lanes at 1.8 GHz.
MEMORY_BYTES_PER_S = 1.6e12
VECTOR_OPS_PER_S = 40 * 64 * 1.8e9

# Per pair of bfloat16 logits, expert and base. Ours reads both once. Eager PyTorch widens both,
# takes two log-softmaxes, and writes each intermediate of mask, contrast and argmax.
OUR_BYTES, OUR_OPS = 4, 18
EAGER_BYTES, EAGER_OPS = 87, 23

# A model of the 7-billion class: inputs and outputs of a layer's linear modules, and layers.
LINEARS = 4 * ((4096, 4096),) + ((4096, 11008), (4096, 11008), (11008, 4096))
LAYERS = 32
# Of PEFT's mixed batch, per adapter and module: index_select, two products, scale, add, index_copy.
PEFT_LAUNCHES = 6


def floor_us(bytes_: float, ops: float) -> float:
    """The longer of what memory and vector units need at least."""
    return 1e6 * max(bytes_ / MEMORY_BYTES_PER_S, ops / VECTOR_OPS_PER_S)


def contrast_table() -> None:
    print("| vocabulary | rows | MB read | M vector ops | floor us | eager: MB | eager: floor us |")
    print("|---|---|---|---|---|---|---|")
    for vocab in (32_000, 128_256, 151_936):
        for rows in (1, 8, 64):
            pairs = rows * vocab
            ours = floor_us(pairs * OUR_BYTES, pairs * OUR_OPS)
            eager = floor_us(pairs * EAGER_BYTES, pairs * EAGER_OPS)
            print(
                f"| {vocab} | {rows} | {pairs * OUR_BYTES / 1e6:.2f} "
                f"| {pairs * OUR_OPS / 1e6:.1f} | {ours:.1f} "
                f"| {pairs * EAGER_BYTES / 1e6:.1f} | {eager:.1f} |"
            )


def lora_table() -> None:
    print("| rank | adapters in the batch | rows | MB read and written | floor us | launches |")
    print("|---|---|---|---|---|---|")
    for rank in (8, 16, 64):
        for adapters, rows in ((1, 1), (8, 8), (8, 64)):
            weights = adapters * rank * sum(n + m for n, m in LINEARS) * 2
            # x is read, the product with A written and read in float32, y read and written.
            states = rows * sum(2 * n + 8 * rank + 4 * m for n, m in LINEARS)
            moved = LAYERS * (weights + states)
            ops = LAYERS * rows * 2 * rank * sum(n + m for n, m in LINEARS)
            modules = LAYERS * len(LINEARS)
            print(
                f"| {rank} | {adapters} | {rows} | {moved / 1e6:.0f} | {floor_us(moved, ops):.0f} "
                f"| {2 * modules} (PEFT: {PEFT_LAUNCHES * adapters * modules}) |"
            )


if __name__ == "__main__":
    contrast_table()
    print()
    lora_table()
