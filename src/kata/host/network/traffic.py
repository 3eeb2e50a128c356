"""Redirect frames between two links, and limit how fast they leave one: requests of tc(8)."""

from __future__ import annotations

import struct

from kata.base import rtnetlink
from kata.base.rtnetlink import Rtnetlink, attribute

_RTM_NEWQDISC, _RTM_DELQDISC, _RTM_NEWTFILTER = 36, 37, 44
_TCMSG = "=BxxxiIII"
_TCA_KIND, _TCA_OPTIONS = 1, 2
# linux/pkt_sched.h, linux/pkt_cls.h, linux/tc_act/tc_mirred.h
_TC_H_INGRESS, _TC_H_ROOT, _INGRESS_HANDLE = 0xFFFFFFF1, 0xFFFFFFFF, 0xFFFF0000
_ETH_P_ALL_BE, _PRIORITY = 0x0300, 1
_TCA_U32_SEL, _TCA_U32_ACT = 5, 7
_TC_U32_TERMINAL = 1
_TCA_ACT_KIND, _TCA_ACT_OPTIONS = 1, 2
_TCA_MIRRED_PARMS, _TC_ACT_STOLEN, _TCA_EGRESS_REDIR = 2, 4, 1
_TCA_TBF_PARMS, _TCA_TBF_RATE64, _TCA_TBF_BURST = 1, 4, 6
# A burst has to hold what arrives between two ticks, and the largest packet after segmentation.
_BURST_MIN_BYTES = 128 << 10
_LATENCY_S = 0.05


def redirect_all(netlink: Rtnetlink, source: int, target: int) -> None:
    """Send every frame that arrives on one link out of another (numbers of links).

    u32 with an empty key and mirred are the oldest classifier and action that can do it; a kernel
    may lack matchall.
    """
    _add_qdisc(netlink, source, _TC_H_INGRESS, _INGRESS_HANDLE, attribute(_TCA_KIND, "ingress"))
    selector = struct.pack("=BBBxHHhhI", _TC_U32_TERMINAL, 0, 1, 0, 0, 0, 0, 0)
    selector += struct.pack("=IIii", 0, 0, 0, 0)
    parameters = struct.pack("=IIiiiiI", 0, 0, _TC_ACT_STOLEN, 0, 0, _TCA_EGRESS_REDIR, target)
    action = attribute(_TCA_ACT_KIND, "mirred")
    action += attribute(_TCA_ACT_OPTIONS, attribute(_TCA_MIRRED_PARMS, parameters))
    options = attribute(_TCA_U32_SEL, selector)
    options += attribute(_TCA_U32_ACT, attribute(1, action))
    body = struct.pack(_TCMSG, 0, source, 0, _INGRESS_HANDLE, _PRIORITY << 16 | _ETH_P_ALL_BE)
    body += attribute(_TCA_KIND, "u32") + attribute(_TCA_OPTIONS, options)
    netlink.change(_RTM_NEWTFILTER, body, rtnetlink.NLM_F_CREATE | rtnetlink.NLM_F_EXCL)


def limit_rate(netlink: Rtnetlink, index: int, bits_per_s: int) -> None:
    """Let frames leave a link at most that fast (a token bucket)."""
    rate = bits_per_s // 8
    burst = max(_BURST_MIN_BYTES, rate // 100)
    specification = struct.pack("=BBHhHI", 0, 1, 0, 0, 0, min(rate, 0xFFFFFFFF))
    parameters = specification + bytes(12)
    parameters += struct.pack("=III", int(rate * _LATENCY_S) + burst, 0, 0)
    options = attribute(_TCA_TBF_PARMS, parameters) + attribute(_TCA_TBF_BURST, burst)
    if rate > 0xFFFFFFFF:
        options += attribute(_TCA_TBF_RATE64, struct.pack("=Q", rate))
    described = attribute(_TCA_KIND, "tbf") + attribute(_TCA_OPTIONS, options)
    _add_qdisc(netlink, index, _TC_H_ROOT, 0, described)


def remove_redirection(netlink: Rtnetlink, index: int) -> None:
    """Let a link's frames arrive again.  Raises OSError when they do."""
    _remove_qdisc(netlink, index, _TC_H_INGRESS, _INGRESS_HANDLE)


def remove_limit(netlink: Rtnetlink, index: int) -> None:
    """Let frames leave a link at any rate.  Raises OSError when they do."""
    _remove_qdisc(netlink, index, _TC_H_ROOT, 0)


def _add_qdisc(netlink: Rtnetlink, index: int, parent: int, handle: int, described: bytes) -> None:
    body = struct.pack(_TCMSG, 0, index, handle, parent, 0) + described
    netlink.change(_RTM_NEWQDISC, body, rtnetlink.NLM_F_CREATE | rtnetlink.NLM_F_REPLACE)


def _remove_qdisc(netlink: Rtnetlink, index: int, parent: int, handle: int) -> None:
    netlink.change(_RTM_DELQDISC, struct.pack(_TCMSG, 0, index, handle, parent, 0))
