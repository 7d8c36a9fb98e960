"""Adam against torch's."""

from __future__ import annotations

import torch

from workbench.quantization.adam import Adam


def test_every_step_is_torchs_to_the_bit() -> None:
    random = torch.Generator().manual_seed(0)
    starts = [torch.randn(shape, generator=random) for shape in ((7, 5), (11,), ())]
    ours, theirs = ([start.clone().requires_grad_() for start in starts] for _ in range(2))
    rates = (1e-2, 3e-3, 0.5)
    mine = Adam(list(zip(ours, rates, strict=True)))
    torchs = torch.optim.Adam([{"params": [p], "lr": rate} for p, rate in zip(theirs, rates, strict=True)])
    for step in range(40):
        share = 1 - step / 50
        for group, rate in zip(torchs.param_groups, rates, strict=True):
            group["lr"] = rate * share
        for parameters in (ours, theirs):
            a, b, c = parameters
            loss = (a @ a.T).sin().sum() + b.square().sum()
            (loss + c**4 if step % 3 else loss).backward()  # now and then one has no gradient
        mine.step(share)
        torchs.step()
        assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
        mine.forget()
        torchs.zero_grad()
        assert all(each.grad is None for each in ours)
