"""Digests of what every public op gave, and whether it still gives it: docs/bits.json.

The file holds calls as data and digests of their results' bits, forward and backward; `array`
makes operands, `replay` makes a call, `book` reads and writes the file, `propose` thinks up calls
for ops that have none.  ``python -m tensorbus_conformance.bits`` records and checks.

Digests notice a change and cannot tell right from wrong, so they are no property of the judge: it
compares with what is computed independently, and mutants are caught by that alone.
"""
