"""From a corpus on disk to verified manifests: one module a corpus, the verbs download and prepare."""
