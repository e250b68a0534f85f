"""A file, or a part of it, could not be analysed.

## What it does

Reports a file that cannot be read, decoded or parsed, and a part of a file at which a rule or the analysis itself
failed. All other files, all other parts and all other rules are reported as usual.

## Why it is a trap

A file that nobody looked at has no findings, which is easily taken for "nothing to find".

## Known limits

False positives: syntax that only a newer Python understands than the one that runs gradtrap.

False negatives: a function whose control flow exceeds the budget of the analysis is left out in silence;
`--statistics` counts such functions.

## Trap

```python
optimizer = torch.optim.SGD(model.parameters(), lr=0.1
optimizer.step()
```

## Fixed

```python
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
optimizer.step()
```

## References

- [Python: encoding declarations](https://docs.python.org/3/reference/lexical_analysis.html#encoding-declarations)
- [Python: SyntaxError](https://docs.python.org/3/library/exceptions.html#SyntaxError)
"""

from __future__ import annotations

from flake8_gradtrap.rule import Rule


class NotAnalysed(Rule):
    code = "GTR000"
    name = "not-analysed"
    summary = "The file or a part of it could not be analysed"
    severity = "error"
    unproved = "it says that a file could not be read: there is nothing to run"
