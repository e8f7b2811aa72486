"""The pieces of netagentctl. Nothing here imports more than the standard library when it is imported."""
