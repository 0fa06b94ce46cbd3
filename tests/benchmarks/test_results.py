"""RESULTS.md is written section by section, and its table of targets computed from them."""

import pytest
from results import RESULTS, cells, read, section, with_table, write
from tables import TABLES
from targets import HEADER, NOT_FOUND, TARGETS, measured, summary

TITLES = [table.title for table in TABLES]
PRINTED = "# a heading\n| way | ms | against hand-written, eager |\n| --- | --- | --- |\n| ours, inductor | 1 | {} |"


def made(ratio):
    return section("`command`", {"date": "2026-01-01", "threads": 2}, "Notes.", PRINTED.format(ratio))


def test_the_file_is_what_its_sections_and_targets_make_of_it():
    text = RESULTS.read_text(encoding="utf-8")
    head, sections = read(text)
    assert write(with_table(head, HEADER, summary(sections)), sections, TITLES) == text
    assert NOT_FOUND not in text


def test_a_section_is_replaced_and_found_again():
    head, sections = read("# Title\n\nBefore.\n\n| work | against | target, at most |\n| --- |\n| old |\n\nAfter.\n")
    sections |= {"Other": "Kept.", "VAE, batch 20, 1 thread": made("0.50"), "VAE, batch 20, 2 threads": made("0.40")}
    text = write(with_table(head, HEADER, summary(sections)), sections, TITLES)
    again, found = read(text)
    assert found == sections
    assert list(found) == ["VAE, batch 20, 2 threads", "VAE, batch 20, 1 thread", "Other"]
    assert again.startswith("# Title\n\nBefore.\n\n| work")
    assert again.endswith("\n\nAfter.")
    assert "| old |" not in again
    row = "| VAE, batch 20 | hand-written eager (default Adam) | 0.42 (before: 0.70) | 0.40 | reached | 0.50 |"
    assert row in again


@pytest.mark.parametrize(("ratio", "said"), [("0.42", "reached"), ("0.43", "missed")])
def test_a_target_is_reached_up_to_its_value(ratio, said):
    first = summary({"VAE, batch 20, 2 threads": made(ratio)}).splitlines()[2]
    assert first.endswith(f"| {ratio} | {said} |")


def test_what_is_not_there_is_said():
    assert measured(TARGETS[0], {}, 2) == (None, "not measured")
    assert NOT_FOUND in measured(TARGETS[0], {"VAE, batch 20, 2 threads": "| way | ms |\n| --- | --- |"}, 2)[1]


def test_a_column_is_read_in_one_row_or_in_all():
    body = "| a | b |\n| --- | --- |\n| x | 1 |\n| y | 2 |\n\n| a | c |\n| --- | --- |\n| x | 3 |"
    assert cells(body, "x", "c") == ["3"]
    assert cells(body, None, "b") == ["1", "2"]
    assert cells(body, "z", "b") == []


def test_every_target_is_of_a_table_that_is_measured_or_kept():
    kept = {"One step by two checkouts"}
    assert {target.title for target in TARGETS} <= {*TITLES, *kept}
    assert len({table.name for table in TABLES}) == len({*TITLES}) == len(TABLES)
