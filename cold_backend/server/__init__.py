"""`cold-server`: starts tritonserver with the CoLD models and stops it cleanly."""
