"""From corpora to verified manifests: one module per corpus, with the functions download and prepare."""
