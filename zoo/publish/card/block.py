"""The generated block of a card on the hub: publishing again replaces it, and keeps the text around it.

A card is the YAML between its first two lines of ``---``, and Markdown. The generated Markdown lies between two
comments; the first has its hash, so that an edit inside the block is noticed. In the YAML, keys that are not generated
are kept.
"""

from __future__ import annotations

import hashlib
import re

from zoo.errors import UserError

_BEGIN = "<!-- siamese-zoo: generated, {digest}; publishing again keeps only the text outside of this block -->"
_END = "<!-- siamese-zoo: end of the generated block -->"
_FENCE = re.compile(r"\A---\n(.*?)^---\n", re.DOTALL | re.MULTILINE)
_BLOCK = re.compile(
    re.escape(_BEGIN).replace(re.escape("{digest}"), r"([0-9a-f]{16})") + r"\n(.*?)" + re.escape(_END) + r"\n?",
    re.DOTALL,
)


def marked(card: str) -> str:
    """Return a generated card with its Markdown between the two comments."""
    head, body = _split(card)
    return f"{head}{_block(body)}"


def merged(old: str, new: str, repository: str) -> str:
    """Return the card to publish where the hub has one already.

    Args:
        old: the card on the hub.
        new: the card that ``marked`` returned.

    Raises:
        UserError: the old card has no generated block, or somebody edited it: nothing may be overwritten unasked.
    """
    old = old.replace("\r\n", "\n")
    old_head, old_body = _split(old)
    new_head, new_body = _split(new)
    found = _BLOCK.search(old_body)
    if found is None and not old_body.strip():  # the hub's own first card has YAML only
        return _merged_head(old_head, new_head) + new_body
    if found is None or _digest(found[2]) != found[1]:
        what = "has no block that `zoo publish` generated" if found is None else "was edited inside the generated block"
        raise UserError(
            f"README.md of {repository} {what}: nothing was published; save that text and give --overwrite-card, or "
            "publish to another repository"
        )
    return _merged_head(old_head, new_head) + old_body[: found.start()] + new_body + old_body[found.end() :]


def _block(body: str) -> str:
    body = body if body.endswith("\n") else f"{body}\n"
    return f"{_BEGIN.format(digest=_digest(body))}\n{body}{_END}\n"


def _digest(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()[:16]


def _split(card: str) -> tuple[str, str]:
    """Return the YAML with its lines of ``---``, empty where there is none, and the Markdown."""
    match = _FENCE.match(card)
    return (match[0], card[match.end() :]) if match else ("", card)


def _merged_head(old: str, new: str) -> str:
    """Return the new YAML, with the keys of the old one that are not generated as they stand there."""
    ours = {line.partition(":")[0] for line in new.splitlines() if line[:1].isalpha()}
    kept, keeps = [], False
    for line in old.splitlines()[1:-1]:
        if line[:1].isalpha():
            keeps = line.partition(":")[0] not in ours
        if keeps:
            kept.append(line + "\n")
    if not kept:
        return new
    return new.removesuffix("---\n") + "".join(kept) + "---\n"
