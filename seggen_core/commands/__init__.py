"""Subcommands of `seggen` that are not stages: modules with `SUMMARY`, `add_arguments` and `run`.

They import no heavy library at the top, so `--help` answers at once.
"""
