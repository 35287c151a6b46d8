"""Download corpora, verify them and write manifests: one module per corpus, with `download` and `prepare`."""
