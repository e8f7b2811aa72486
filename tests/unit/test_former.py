"""The wrap names that are noted."""

from pathlib import Path

from nova_netagent.former import NotedNames


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    NotedNames(str(tmp_path)).write(["older", "now"])
    assert NotedNames(str(tmp_path)).read() == ["older", "now"]
    assert NotedNames(str(tmp_path / "nowhere")).read() == []


def test_a_line_that_the_option_would_refuse_is_no_name(tmp_path: Path) -> None:
    """In nf_tables these are the tables of iptables, which are others'."""
    (tmp_path / "wrap_names").write_text("older\nfilter\n../etc\nnat\n")
    assert NotedNames(str(tmp_path)).read() == ["older"]
