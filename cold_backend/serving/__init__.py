"""Between tritonserver and the engine: tensors, responses, taking requests in, signs of life.

Nothing here decides what an answer is.
"""
