"""The check of the pages' commands fails where it must."""

from __future__ import annotations

from pathlib import Path

import pytest
from doc_blocks import BlockError, check_options, commands, parse, run_page


def page(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "page.md"
    path.write_text(text)
    return path


def run(tmp_path: Path, text: str, *, slow: bool = False) -> int:
    folder = tmp_path / "folder"
    folder.mkdir(exist_ok=True)
    return run_page(parse(page(tmp_path, text)), folder, slow=slow)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("```\nzoo list\n```", "commands in a block of ''"),
        ("```text\n$ zoo list\n```", "commands in a block of 'text'"),
        ("Text\n\n    zoo list\n", "commands in an indented block"),
        ("<!-- not run: -->\n```bash\nzoo list\n```", "'not run' needs a reason"),
        ("<!-- not run: later -->\n```bash\nzoo list\n```", "'not run' needs a reason"),
        ("<!-- not run -->\n```bash\nzoo list\n```", "a marker is"),
        ("<!-- run: -->\n```bash\nzoo list\n```", "'run' says nothing"),
        ("<!-- run: fast -->\n```bash\nzoo list\n```", "'fast' is neither slow, exit=N nor WORD=VALUE"),
        ("<!-- run: slow -->\n```json\n{}\n```", "only bash, console, python can run"),
        ("<!-- not run: needs a GPU -->\nText.\n```bash\nzoo list\n```", "no block follows this marker"),
        ("<!-- run: slow -->\n", "no block follows this marker"),
        ("```bash\nzoo list\n", "the block has no end"),
    ],
)
def test_a_block_without_a_right_marker_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(BlockError, match=message):
        parse(page(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "```bash\nzoo info byol_r05\n```",
            r"page.md:1: exit code 2, not 0: zoo info byol_r05(?s:.*)did you mean byol_r50",
        ),
        ("```bash\ntrue\nfalse\ntrue\n```", "exit code 1, not 0: false"),
        ("```bash\nfalse | true\n```", "exit code 1, not 0"),
        ("<!-- run: exit=3 -->\n```bash\ntrue\n```", "exit code 0, not 3"),
        ("```python\nassert 1 == 2\n```", "page.md:1: AssertionError"),
        ("```python\nprint(never_made)\n```", "NameError: name 'never_made'"),
        ("<!-- run: DIR=x -->\n```bash\ntrue\n```", "the marker replaces DIR, which the block does not have"),
        ("```console\n$ echo one\ntwo\n```", "has no line 'two'"),
        ("```console\n$ printf 'a\\nb\\n'\nb\na\n```", "has no line 'a'"),
        ("```console\nzoo list\n```", "a console block starts with"),
    ],
)
def test_a_block_that_fails_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(BlockError, match=message):
        run(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("zoo extrakt --out OUT", "zoo has no command extrakt"),
        ("zoo extract --images DIR \\\n    --ouput OUT", "zoo extract has no option --ouput"),
        ("zoo-train run NAME --rounds 3 --data D", "zoo-train run has no option --rounds"),
        ("pip install x && zoo fetch NAME --fast", "zoo fetch has no option --fast"),
    ],
)
def test_a_block_that_is_not_run_has_options_that_exist(tmp_path: Path, text: str, message: str) -> None:
    (block,) = parse(page(tmp_path, f"<!-- not run: downloads weights -->\n```bash\n{text}\n```"))
    with pytest.raises(BlockError, match=message):
        check_options(block)


def test_blocks_of_a_page_run_in_order_in_one_folder(tmp_path: Path) -> None:
    text = """
Words before.

<!-- run: FILE=one.txt WORD="two words" -->
```bash title="a title"
# a comment
echo 'WORD and \\
  more' > FILE
ls --all
```

- an item

    ```python
    from pathlib import Path

    text = Path("one.txt").read_text()
    ```

```python
assert text.startswith("two words and"), text
print(text)
```

<!-- run: slow -->
```bash
rm one.txt
```

<!-- not run: it would wait for ever -->
```bash
sleep 1000
```

```json
{"left": "alone"}
```
"""
    assert [block.language for block in parse(page(tmp_path, text))] == ["bash", "python", "python", "bash", "bash"]
    assert run(tmp_path, text) == 3
    assert (tmp_path / "folder" / "one.txt").exists()
    assert run(tmp_path, text, slow=True) == 4
    assert not (tmp_path / "folder" / "one.txt").exists()


def test_what_is_shown_is_printed(tmp_path: Path) -> None:
    assert run(tmp_path, "```console\n$ zoo info simclr_r18_mini | tail -n +2\n  network    timm resnet18\n```") == 1
    assert run(tmp_path, "<!-- run: exit=2 -->\n```console\n$ zoo info byol_r05\nzoo: error: ...byol_r50...\n```") == 1


def test_a_command_goes_on_behind_a_backslash(tmp_path: Path) -> None:
    assert run(tmp_path, "```bash\nzoo info \\\n  simclr_r18_mini\n```") == 1


def test_a_here_document_is_one_command(tmp_path: Path) -> None:
    (block,) = parse(page(tmp_path, "```bash\ncat > a.py <<'END'\nx = 'it'\nEND\npython a.py\n```"))
    assert [command.text for command in commands(block, block.text)] == [
        "cat > a.py <<'END'\nx = 'it'\nEND",
        "python a.py",
    ]
