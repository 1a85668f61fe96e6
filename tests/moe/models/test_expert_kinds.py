"""What a module's own gating function is found to be."""

from types import SimpleNamespace

import pytest
from torch.nn.functional import silu

from pauca.moe.models.expert_kinds import ExpertKind, kind_of
from pauca.moe.ops.gates import Gate


def _experts(limit):
    """As models have it where no limit is said as None, or as zero."""

    def apply_gate(z):
        gate, up = z.chunk(2, 1)
        return silu(gate.clamp(max=limit)) * up.clamp(-limit, limit) if limit else silu(gate) * up

    return SimpleNamespace(act_fn=silu, swiglu_limit=limit, _apply_gate=apply_gate)


@pytest.mark.parametrize(("limit", "gate"), [(None, Gate()), (0, Gate()), (0.0, Gate()), (7, Gate(limit=7.0))])
def test_a_limit_of_zero_is_none(limit, gate):
    assert kind_of(_experts(limit)) == ExpertKind(gate)
