"""The judge: conformance suite, reports, and the command ``tensorbus``."""
