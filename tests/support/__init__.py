"""Test helpers: tiny runs, corpora, commands, servers."""
