"""Comments that are made together are those that are made one by one."""

import pytest

from nova_netagent.backend.nft import userdata
from nova_netagent.backend.nft.attributes import parse

PARTS = ("replies", "", "DHCP", "same network")
ABOUT = ["instances a0000001-0000-4000-8000-000000000001", "", 'a "name"', "ä", "x" * 118, "x" * 127, "x" * 300]


@pytest.mark.parametrize("about", ABOUT)
@pytest.mark.parametrize("parts", [PARTS, ("DHCP",), (), ('a "part"', "DHCP"), ("ö", "DHCP"), ("y" * 200, "DHCP")])
def test_comments_that_begin_alike_are_those_of_one_each(about: str, parts: tuple[str, ...]) -> None:
    whole = [f"{about} {part}" if part else about for part in parts]
    assert userdata.rule_comments(about, parts) == [userdata.rule_comment(each) for each in whole]
    assert userdata.element_comments(about, parts) == [userdata.element_comment(each) for each in whole]


@pytest.mark.parametrize("text", ["a", "ab", "abc", "abcd", "x" * 127])
def test_a_comment_is_read_as_it_was_said(text: str) -> None:
    for said, kind in ((userdata.rule_comment(text), 7), (userdata.element_comment(text), 6)):
        assert len(said) % 4 == 0
        assert userdata.read_comment(parse(said)[kind]) == text


def test_what_nft_would_not_print_is_said_otherwise() -> None:
    assert userdata.read_comment(parse(userdata.rule_comment('"ä"'))[7]) == "'?'"
    assert userdata.read_comment(parse(userdata.rule_comment("x" * 128))[7]) == "x" * 127
    assert userdata.rule_comment("") == b""
