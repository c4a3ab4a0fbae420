"""Which IP addresses the endpoint may connect to (pure).

Public ones. ``ipaddress`` knows most of what is not; it calls some global that lead inside: all
multicast, addresses that carry an IPv4 address of their own, and a few that clouds have taken.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

_NEVER = tuple(
    ip_network(text)
    for text in (
        "0.0.0.0/8",  # "this host": Linux connects to loopback
        "169.254.0.0/16",  # link-local; metadata of most clouds
        "100.100.100.200/32",  # metadata (Alibaba)
        "168.63.129.16/32",  # the host's agent (Azure)
        "192.0.0.192/32",  # metadata (Oracle)
        "224.0.0.0/3",  # multicast, reserved, broadcast
        "::/128",
        "fd00:ec2::/32",  # metadata and other services of an instance (AWS)
        "fe80::/10",
        "ff00::/8",
    )
)
"""Never, even where ``allowed_private_addresses`` covers them."""

_NOT_PUBLIC = tuple(
    ip_network(text)
    for text in (
        "100.64.0.0/10",
        "192.0.0.0/24",
        "192.88.99.0/24",  # relays of 6to4
        "::/96",  # "IPv4-compatible"
        "64:ff9b:1::/48",  # NAT64 of a site's own
        "100::/32",  # discard, dummy
        "2001::/23",  # Teredo and other protocols' own
        "2002::/16",  # 6to4
        "3fff::/20",
        "5f00::/16",
        "fec0::/10",
    )
)
"""Not public, whatever this Python's table says (tables differ between its releases)."""

_NAT64 = IPv6Network("64:ff9b::/96")
_ISATAP = frozenset({0x0000_5EFE, 0x0200_5EFE})


class AddressRules:
    """Public addresses, and those of the networks that the configuration names."""

    def __init__(self, allowed_private: Iterable[str]) -> None:
        self._allowed_private: tuple[Network, ...] = tuple(map(ip_network, allowed_private))

    def allows(self, address: str) -> bool:
        """Whether a connection to this address may be made; False for what is no address."""
        try:
            found = _meant(ip_address(address))
        except ValueError:
            return False
        if any(found in network for network in _NEVER):
            return False
        return _is_public(found) or any(found in network for network in self._allowed_private)


def _meant(address: Address) -> Address:
    """The IPv4 address that a mapped or a NAT64 address leads to, or the address itself."""
    if isinstance(address, IPv4Address):
        return address
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address


def _is_public(address: Address) -> bool:
    if any(address in network for network in _NOT_PUBLIC):
        return False
    if isinstance(address, IPv6Address) and int(address) >> 32 & 0xFFFF_FFFF in _ISATAP:
        return False
    return address.is_global and not address.is_multicast
