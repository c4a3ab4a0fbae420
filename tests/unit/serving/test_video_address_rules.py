"""Which addresses a connection may be made to: public ones, and those that are configured."""

from ipaddress import IPv4Address, IPv6Address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.serving.address_rules import AddressRules

PUBLIC = ("1.1.1.1", "93.184.216.34", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8")

ALWAYS_REFUSED = (
    *("0.0.0.0", "0.1.2.3", "169.254.169.254", "169.254.170.2", "169.254.1.1", "168.63.129.16"),
    *("100.100.100.200", "192.0.0.192", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255"),
    *("::", "fe80::1", "fe80::1%1", "ff02::1", "ff0e::1", "fd00:ec2::254", "fd00:ec2::23"),
    *("::ffff:169.254.169.254", "::ffff:0.0.0.0", "64:ff9b::169.254.169.254", "64:ff9b::a9fe:a9fe"),
)

PRIVATE = (
    *("10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "127.0.0.1", "127.255.255.254"),
    *("100.64.0.1", "100.127.255.255", "192.0.0.1", "192.0.2.1", "192.88.99.1", "198.18.0.1"),
    *("198.51.100.1", "203.0.113.1", "::1", "fc00::1", "fdff::1", "fec0::1", "2001:db8::1"),
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:c0a8:101", "64:ff9b::10.0.0.1"),
    *(
        "64:ff9b::7f00:1",
        "64:ff9b:1::1",
        "::127.0.0.1",
        "::10.0.0.1",
        "2002:7f00:1::",
        "2002:808::",
    ),
    *("2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:10::1", "3fff::1", "5f00::1", "100::1"),
    *("2606:4700::5efe:a00:1", "2606:4700::200:5efe:a00:1"),
)


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_allowed(address):
    assert AddressRules(()).allows(address)


@pytest.mark.parametrize("address", ALWAYS_REFUSED + PRIVATE)
def test_other_addresses_are_refused(address):
    assert not AddressRules(()).allows(address)


EVERYTHING = AddressRules(("0.0.0.0/0", "::/0"))


@pytest.mark.parametrize("address", ALWAYS_REFUSED)
def test_metadata_and_link_local_are_refused_even_if_covered(address):
    assert not EVERYTHING.allows(address)


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_can_be_allowed(address):
    assert EVERYTHING.allows(address)


def test_only_the_configured_networks_are_allowed():
    rules = AddressRules(("10.1.0.0/16", "fd12::/32"))
    assert all(map(rules.allows, ("10.1.2.3", "::ffff:10.1.2.3", "fd12::5")))
    assert not any(map(rules.allows, ("10.2.0.1", "127.0.0.1", "fd13::5", "::1")))


@pytest.mark.parametrize(
    "text",
    ["", "localhost", "127.1", "0x7f.0.0.1", "0177.0.0.1", "2130706433", "1.2.3.4/8", "[::1]"],
)
def test_what_is_no_address_is_refused(text):
    assert not EVERYTHING.allows(text)


PRIVATE_NETWORKS = [
    ip_network(text) for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "127.0.0.0/8")
]


@given(
    st.sampled_from(PRIVATE_NETWORKS),
    st.integers(0, 2**24 - 1),
    st.sampled_from(["{}", "::ffff:{}", "64:ff9b::{}", "::{}"]),
)
def test_no_spelling_of_a_private_address_gets_through(network, offset, spelling):
    address = IPv4Address(int(network[0]) + offset % network.num_addresses)
    assert not AddressRules(()).allows(spelling.format(address))
    inside = IPv6Address((0x2002 << 112) | (int(address) << 80))  # 6to4
    assert not AddressRules(()).allows(str(inside))
