"""What tests share: tiny runs, corpora, commands, servers."""
