"""Subcommands of `seggen` beside the stages: `add_arguments` for the parser, `run` for the work.

Their modules import nothing heavy at the top, so that `--help` answers at once.
"""
