"""Run commands of ``zoo`` one after the other in this process, and write what each did and how much memory it took.

``python -m measured_commands REPORT``, with the commands as JSON on a line of REPORT; the answers replace them.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
import traceback
from pathlib import Path


def _megabytes(field: str) -> float:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1024


def _run(words: list[str]) -> dict[str, object]:
    from training.cli import app as training
    from zoo.cli.app import exit_code
    from zoo.cli.main import app as zoo

    sys.argv = words
    stderr = io.StringIO()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts at what is in memory now
    before = _megabytes("VmRSS")
    with contextlib.redirect_stderr(stderr), contextlib.redirect_stdout(io.StringIO()):
        try:
            code = exit_code({"zoo": zoo, "zoo-train": training}[words[0]], words[0], "")
        except BaseException:
            code = 1
            traceback.print_exc()
    return {"code": code, "stderr": stderr.getvalue(), "peak": _megabytes("VmHWM") - before}


if __name__ == "__main__":
    report = Path(sys.argv[1])
    answers: list[dict[str, object]] = []
    for command in json.loads(report.read_text()):
        report.write_text(json.dumps({"ended in": command}))
        answers.append(_run(command))
    report.write_text(json.dumps(answers))
