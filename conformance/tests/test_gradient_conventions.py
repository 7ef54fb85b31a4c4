"""docs/gradients.md, line by line: the oracle and the library both say what is written there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorbus as tb
from tensorbus_conformance.oracle import REFERENCES

INF, NAN = float("inf"), float("nan")
PAGE = (Path(__file__).parents[2] / "docs" / "gradients.md").read_text()

# op, inputs, options, cotangent (None for ones), gradients (None where there is none).
TABLE: list[tuple[str, list[Any], dict[str, Any], Any, list[Any]]] = [
    ("abs", [[0.0, -0.0, -2.0]], {}, None, [[0, 0, -1]]),
    *((n, [[0.0, 1.0, -1.5]], {}, None, [[0, 0, 0]])
      for n in ("sign", "floor", "ceil", "trunc", "round")),
    ("floor_divide", [[6.0, 0.0], [3.0, 1.0]], {}, None, [[0, 0], [0, 0]]),
    ("remainder", [[7.0, -7.0], [2.0, 2.0]], {}, None, [[1, 1], [-3, 4]]),
    ("sqrt", [[0.0]], {}, None, [[INF]]),
    ("rsqrt", [[0.0, -0.0]], {}, None, [[-INF, -INF]]),
    ("reciprocal", [[0.0, -0.0]], {}, None, [[-INF, -INF]]),
    ("divide", [[1.0, 0.0], [0.0, 0.0]], {}, None, [[INF, INF], [-INF, NAN]]),
    ("log", [[0.0, -0.0, -1.0]], {}, None, [[INF, -INF, -1]]),
    ("log2", [[0.0, -0.0]], {}, None, [[INF, -INF]]),
    ("log10", [[0.0, -0.0]], {}, None, [[INF, -INF]]),
    ("log1p", [[-1.0, -3.0]], {}, None, [[INF, -0.5]]),
    ("asin", [[1.0, -1.0, 2.0]], {}, None, [[INF, INF, NAN]]),
    ("acos", [[1.0, -1.0, 2.0]], {}, None, [[-INF, -INF, NAN]]),
    ("atanh", [[1.0, -1.0, 3.0]], {}, None, [[INF, INF, -0.125]]),
    ("acosh", [[1.0, 0.0, -2.0]], {}, None, [[INF, NAN, NAN]]),
    ("atan2", [[0.0], [0.0]], {}, None, [[NAN], [NAN]]),
    ("hypot", [[0.0, -0.0], [0.0, 0.0]], {}, None, [[0, 0], [0, 0]]),
    ("pow", [[0.0, 2.0, -3.0], [0.0, 0.0, 0.0]], {}, [1.0, 1.0, 1.0],
     [[0, 0, 0], [0, np.log(2.0), NAN]]),
    ("pow", [[0.0, 0.0, 0.0], [0.5, 2.0, -1.0]], {}, None, [[INF, 0, -INF], [0, 0, -INF]]),
    ("pow", [[-2.0, -2.0], [2.0, 3.0]], {}, None, [[-4, 12], [NAN, NAN]]),
    ("maximum", [[1.0, 0.0, 2.0], [1.0, -0.0, 1.0]], {}, None, [[0.5, 0.5, 1], [0.5, 0.5, 0]]),
    ("minimum", [[1.0, 0.0, 2.0], [1.0, -0.0, 1.0]], {}, None, [[0.5, 0.5, 0], [0.5, 0.5, 1]]),
    ("clip", [[-1.0, -2.0, 3.0, 1.0], [-1.0] * 4, [1.0] * 4], {}, None,
     [[1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 1, 0]]),
    ("clip", [[0.0, 1.5, 3.0], [2.0] * 3, [1.0] * 3], {}, None, [[0] * 3, [0] * 3, [1] * 3]),
    ("copysign", [[0.0, 2.0, -2.0], [-1.0, -0.0, -1.0]], {}, None, [[0, -1, 1], [0, 0, 0]]),
    ("logaddexp", [[1.0, INF, -INF], [1.0, INF, -INF]], {}, None, [[0.5, NAN, NAN]] * 2),
    ("where", [[True, False], [1.0, 2.0], [3.0, 4.0]], {}, [INF, NAN],
     [None, [INF, 0], [0, NAN]]),
    ("relu", [[0.0, -0.0, 1.0]], {}, None, [[0, 0, 1]]),
    ("leaky_relu", [[0.0, 1.0]], {"negative_slope": 0.25}, None, [[0.25, 1]]),
    ("elu", [[0.0, 1.0]], {"alpha": 1.5}, None, [[1.5, 1]]),
    ("hardtanh", [[-1.0, 1.0, 0.5]], {}, None, [[0, 0, 1]]),
    ("hardswish", [[-3.0, 3.0, 0.0]], {}, None, [[0, 1, 0.5]]),
    ("softplus", [[20.0, 20.5]], {}, None, [[1 / (1 + np.exp(-20.0)), 1]]),
    *((n, [[INF, -INF]], {}, None, [[1, 0]]) for n in ("gelu", "silu", "mish")),
    *((n, [[INF, -INF]], {}, None, [[0, 0]]) for n in ("sigmoid", "tanh", "erf")),
    ("max", [[3.0, 1.0, 3.0, 3.0]], {}, None, [[1 / 3, 0, 1 / 3, 1 / 3]]),
    ("min", [[0.0, -0.0, 1.0]], {}, None, [[0.5, 0.5, 0]]),
    ("sort", [[2.0, 1.0, 2.0]], {}, [1.0, 2.0, 4.0], [[2, 1, 4]]),
    ("prod", [[2.0, 0.0, 3.0]], {}, None, [[0, 6, 0]]),
    ("prod", [[2.0, 0.0, 0.0]], {}, None, [[0, 0, 0]]),
    ("cumulative_prod", [[2.0, 0.0, 3.0]], {"axis": 0}, None, [[1, 8, 0]]),
    ("var", [[2.0, 2.0, 2.0]], {}, None, [[0, 0, 0]]),
    ("std", [[2.0, 2.0, 2.0]], {}, None, [[0, 0, 0]]),
    ("logsumexp", [[-INF, 0.0, 0.0]], {}, None, [[0, 0.5, 0.5]]),
    ("logsumexp", [[-INF, -INF]], {}, None, [[NAN, NAN]]),
    ("softmax", [[-INF, 0.0, 0.0]], {}, [1.0, 2.0, 4.0], [[0, -0.5, 0.5]]),
    ("softmax", [[-INF, -INF]], {}, None, [[NAN, NAN]]),
    ("log_softmax", [[-INF, 0.0, 0.0]], {}, [1.0, 2.0, 4.0], [[1, -1.5, 0.5]]),
    ("take", [[1.0, 2.0], [1, 1, 0]], {"axis": 0}, [1.0, 2.0, 4.0], [[4, 3], None]),
    ("gather", [[1.0, 2.0], [1, 1, 0]], {"axis": 0}, [1.0, 2.0, 4.0], [[4, 3], None]),
    ("embedding", [[1, 1], [[1.0], [2.0]]], {}, [[1.0], [2.0]], [None, [[0], [3]]]),
    ("index_add", [[1.0, 2.0], [1, 1], [1.0, 2.0]], {"axis": 0}, [1.0, 2.0],
     [[1, 2], None, [2, 2]]),
    ("layer_norm", [[[2.0, 2.0]]], {"eps": 0.25}, [[1.0, 3.0]], [[[-2, 2]]]),
    ("rms_norm", [[[0.0, 0.0]]], {"eps": 0.25}, [[1.0, 3.0]], [[[2, 6]]]),
    ("mse_loss", [[1.0, 2.0], [1.0, 2.0]], {}, None, [[0, 0], [0, 0]]),
    ("cross_entropy", [[[0.0, 0.0]], [[0.0, 1.0]]], {}, None,
     [[[0.5, -0.5]], [[np.log(2.0), np.log(2.0)]]]),
]  # fmt: skip


def arrays(inputs: list[Any]) -> list[Any]:
    return [np.array(x) for x in inputs]


@pytest.mark.parametrize(("name", "inputs", "options", "cotangent", "expected"), TABLE)
def test_both_say_what_is_written(
    name: str, inputs: list[Any], options: dict[str, Any], cotangent: Any, expected: list[Any]
) -> None:
    op = REFERENCES[name]
    assert op.vjp is not None
    tensors = [tb.asarray(a, device="ref") for a in arrays(inputs)]
    for t in tensors:
        t.requires_grad = t.dtype.is_float
    result = tb.FUNCTIONS[op.qualified].call(*tensors, **options)
    g = np.ones(result.shape) if cotangent is None else np.array(cotangent)
    wanted = [t for t in tensors if t.requires_grad]
    found = iter(tb.grad(result, wanted, tb.asarray(g, device="ref"), allow_unused=True))
    references = op.vjp(arrays(inputs), options, g)
    for t, reference, value in zip(tensors, references, expected, strict=True):
        if value is None:
            assert reference is None
            continue
        ours = next(found) if t.requires_grad else None
        assert ours is not None
        np.testing.assert_allclose(ours.numpy(), value, rtol=1e-14, atol=1e-16)
        np.testing.assert_allclose(reference.value, value, rtol=1e-14, atol=1e-16)


def test_every_line_of_the_page_is_tried() -> None:
    tried = {name for name, *_ in TABLE}
    lines = [line for line in PAGE.splitlines() if line.startswith("| `")]
    assert len(lines) > 40
    for line in lines:
        first, _, value, _ = (part.strip() for part in line.strip("|").split("|"))
        if "not differentiable" in value:
            continue
        names = re.findall(r"`(\w+)`", first)
        assert names
        assert set(names) <= tried, line


@pytest.mark.parametrize("name", ["nextafter", "argmax", "argmin", "argsort", "less"])
def test_what_is_not_differentiable_requires_no_gradient(name: str) -> None:
    op = REFERENCES[name]
    assert not op.differentiable
    tensors = [tb.asarray(np.ones(3), device="ref") for _ in range(op.tensors[1])]
    for t in tensors:
        t.requires_grad = True
    assert not tb.FUNCTIONS[op.qualified].call(*tensors).requires_grad
