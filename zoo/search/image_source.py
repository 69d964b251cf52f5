"""Where the images of a finished extraction are: its run log says what it was made from.

The manifest holds no absolute path, so that the same images give the same bytes in any folder. The run log beside it
tells what is different from run to run, and each start of a run from local files records them in it.
"""

from __future__ import annotations

import os
from pathlib import Path

from zoo.embeddings.run_log import SOURCE, last_start
from zoo.errors import UserError


def recorded_images(out: Path) -> str | None:
    """Return the local source that the result was made from; ``None`` if no run has recorded it.

    Raises:
        UserError: it is recorded, and is not there any more.
    """
    start = last_start(out)
    source = start.get(SOURCE)
    if not isinstance(source, str) or not os.path.isabs(source):
        return None
    # The recorded name can hold a wildcard: its folder must be there.
    place = source
    while any(mark in place for mark in "*?[") and not os.path.lexists(place):
        place = os.path.dirname(place)
    if not os.path.exists(place):
        raise UserError(
            f"the images of {out} were in {source}, which is gone: give --images, or --no-images to show names only"
        )
    return source
