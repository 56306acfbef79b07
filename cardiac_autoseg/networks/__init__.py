"""Networks, built from a plan."""

from __future__ import annotations

from torch import nn

from cardiac_autoseg.networks.attention_unet import attention_unet
from cardiac_autoseg.networks.enet import ENet
from cardiac_autoseg.networks.unet import UNet
from planning.plan import ENetShape, Plan


def build_network(plan: Plan) -> nn.Module:
    """The network that ``plan`` describes, freshly initialised from torch's global random state.

    It maps (B, 1, H, W), with H and W multiples of ``plan.divisor``, to logits (B, C, H, W); in training mode to a
    list of logits, full resolution first.
    """
    classes = len(plan.classes)
    if isinstance(plan.network, ENetShape):
        return ENet(plan.network, 1, classes)
    return {"unet": UNet, "attention_unet": attention_unet}[plan.architecture](plan.network, 1, classes)
