"""Which text of a card on the hub survives when a model is published again."""

from __future__ import annotations

import pytest

from zoo.errors import UserError
from zoo.publish.card.block import marked, merged

OLD = "---\nlicense: mit\ntags:\n- a\n---\n# Model\nold\n"
NEW = "---\nlicense: mit\ntags:\n- b\n---\n# Model\nnew\n"


def test_an_unchanged_card_is_replaced_as_a_whole() -> None:
    assert merged(marked(OLD), marked(NEW), "o/n") == marked(NEW)
    assert merged(marked("# a\n"), marked("# b\n"), "o/n") == marked("# b\n")


def test_text_around_the_block_and_keys_of_the_yaml_are_kept() -> None:
    old = marked(OLD).replace("- a\n---\n", "- a\nmine:\n- 1\n\n- 2\nother: x\n---\nbefore\n") + "after\n"
    found = merged(old, marked(NEW), "o/n")
    assert found == marked(NEW).replace("- b\n---\n", "- b\nmine:\n- 1\n\n- 2\nother: x\n---\nbefore\n") + "after\n"
    assert merged(old.replace("\n", "\r\n"), marked(NEW), "o/n") == found


def test_the_hub_s_first_card_has_only_yaml() -> None:
    found = merged("---\nlicense: other\nextra: 1\n---\n", marked(NEW), "o/n")
    assert found == marked(NEW).replace("- b\n", "- b\nextra: 1\n")


@pytest.mark.parametrize(
    "old",
    [OLD, marked(OLD).replace("old", "older"), marked(OLD).replace("end of the generated", "end"), "# mine"],
)
def test_other_cards_are_refused(old: str) -> None:
    with pytest.raises(UserError, match=r"README\.md of o/n .*nothing was published.*--overwrite-card"):
        merged(old, marked(NEW), "o/n")
