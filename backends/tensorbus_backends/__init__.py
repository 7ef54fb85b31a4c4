"""The plugin contract and everything that a backend author builds on."""
