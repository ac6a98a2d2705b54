"""`cold-server`: starts tritonserver with the CoLD models, watches it, and stops it cleanly.

Runs in a process of its own: with the models it shares files alone.
"""
