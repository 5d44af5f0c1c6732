"""Campaigns against the project, and what makes its data files."""
