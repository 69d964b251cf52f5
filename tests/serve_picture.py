"""Make the picture of the page of ``zoo serve`` again:

    python tests/serve_picture.py examples/serve.png

The example photographs are extracted with the bundled network, with what each shows as a kept column, and the first
screen is photographed in headless Chromium. Needs node and npm, as the tests of the page do.
"""

from __future__ import annotations

import csv
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from browsers import CHROMIUM, PLAYWRIGHT, installed

ROOT = Path(__file__).parents[1]
_SUBJECTS = {
    "animal": ("bird", "cat", "cow", "horses", "sheep"),
    "building": ("castle", "pagoda", "pyramid"),
    "flower": ("flower",),
    "food": ("coffee", "fig"),
    "mountain": ("mountain",),
    "person": ("astronaut", "photographer"),
    "rocket": ("rocket",),
}
_SCRIPT = """
import { chromium } from "playwright-core";
const [url, executablePath, out] = process.argv.slice(2);
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox", "--disable-gpu"] });
const page = await browser.newPage({ viewport: { width: 1180, height: 800 }, colorScheme: "light" });
await page.goto(url);
await page.waitForSelector("#colour option:nth-child(2)", { state: "attached" });
await page.selectOption("#colour", "subject");
await page.waitForSelector("#sample .caption");
await page.waitForTimeout(1500); // thumbnails are drawn as they come
await page.screenshot({ path: out });
await browser.close();
"""


def make(out: Path) -> None:
    """Extract, serve, photograph."""
    photos = ROOT / "examples" / "photos"
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with (folder / "photographs.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["path", "subject"])
            for photo in sorted(p for p in photos.iterdir() if p.suffix in (".jpg", ".png")):
                (folder / photo.name).write_bytes(photo.read_bytes())
                shows = photo.stem.partition("_")[0]
                writer.writerow([photo.name, next(name for name, of in _SUBJECTS.items() if shows in of)])
        zoo = [sys.executable, "-m", "zoo"]
        extract = [*zoo, "extract", "photographs.csv", "--out", "photographs", "--keep", "subject", "--device", "cpu"]
        subprocess.run(extract, cwd=folder, check=True)
        subprocess.run([*zoo, "index", "photographs"], cwd=folder, check=True)
        command = [*zoo, "serve", "photographs", "--port", "0", "--device", "cpu"]
        server = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            url = re.match(r"http://\S+", server.stdout.readline())
            assert url is not None
            assert CHROMIUM is not None, "needs Chromium"
            (folder / "node_modules").symlink_to(installed(PLAYWRIGHT))
            (folder / "shoot.mjs").write_text(_SCRIPT)
            subprocess.run(["node", "shoot.mjs", url[0], CHROMIUM, out.resolve()], cwd=folder, check=True)
        finally:
            server.terminate()
            server.wait(20)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
