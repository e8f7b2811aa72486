"""docs/objects.md tells every field of every object, whether it has to be there, and an example that is one."""

import json
import re
from pathlib import Path

import pytest
from msgspec.structs import fields

from nova_netagent.api.wire import convert_state
from nova_netagent.model import FloatingIP, Instance, Network, ProviderRule, SecurityGroup
from nova_netagent.model.objects import Body, SecurityGroupRule, Vif

PAGE = (Path(__file__).resolve().parents[3] / "docs/objects.md").read_text()
SECTIONS: dict[str, type[Body]] = {
    "Network": Network,
    "Instance": Instance,
    "Vif": Vif,
    "Security group": SecurityGroup,
    "Security group rule": SecurityGroupRule,
    "Floating IP": FloatingIP,
    "Provider rule": ProviderRule,
}


def rows(section: str) -> dict[str, str]:
    """The default of each field in the table of a section."""
    found = re.search(rf"^## {section}\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    assert found
    table = re.findall(r"^\| (`[^|]*) \| ?([^|]*?) ?\|", found[1], re.MULTILINE)
    return {field: default for names, default in table for field in re.findall(r"`(\w+)`", names)}


@pytest.mark.parametrize("section", SECTIONS)
def test_every_field_is_told_and_no_other(section: str) -> None:
    known = fields(SECTIONS[section])
    assert sorted(rows(section)) == sorted(each.name for each in known)
    required = {each.name for each in known if each.required}
    assert {name for name, default in rows(section).items() if not default} == required


def test_the_example_is_a_state_with_something_of_each_kind() -> None:
    example = re.search(r"```json\n(.*?)```", PAGE, re.DOTALL)
    assert example
    state = convert_state(json.loads(example[1]))
    assert {type(each) for each in state.objects()} == {Network, Instance, SecurityGroup, FloatingIP, ProviderRule}
