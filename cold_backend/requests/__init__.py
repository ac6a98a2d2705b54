"""What is asked, and what has been written of the answer: fields, prompts, sequences, beams.

Nothing here computes, waits or knows tritonserver.
"""
