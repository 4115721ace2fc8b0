"""A Dockerfile's stages, and their steps carried out without a container engine, each in a layer of an overlay.

Only what `deploy/Dockerfile` uses. In place of the base image, `python:…-slim`, there is an empty root that has the
system's `/usr`, read-only, and this Python in `/usr/local`.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_CONTINUED = re.compile(r"\\\n(?:[ \t]*#.*\n)*")
_VARIABLE = re.compile(r"\$(?:\{(\w+)(?::-([^}]*))?\}|(\w+))")
_FOLDERS = ("dev", "proc", "sys", "tmp", "run", "root", "usr", "opt", "var/cache", "var/lib", "etc")
_OF_NETWORK = tuple(f"{name}_proxy" for name in ("http", "https", "all", "no"))
_LISTS = {"ENTRYPOINT": "entrypoint", "CMD": "command", "HEALTHCHECK": "probe"}
_WORDS = {"USER": "user", "WORKDIR": "folder", "STOPSIGNAL": "stop_signal", "EXPOSE": "port"}

# Arguments: the root, the overlay's options, this Python, what to bind, to where and how, and the program after `--`.
_ENTER = """
root=$1; mount -t overlay overlay -o "$2" "$root"
bind() { mount --bind "$1" "$root$2"; mount -o remount,bind,"$3" "$root$2"; }
for each in /usr /bin /sbin /lib*; do [ -L "$each" ] || bind "$each" "$each" ro; done
bind "$3" /usr/local ro; shift 3
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount -t tmpfs -o mode=1777,exec tmpfs "$root/tmp"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for each in null zero full random urandom; do touch "$root/dev/$each"; mount --bind "/dev/$each" "$root/dev/$each"; done
ln -s /proc/self/fd "$root/dev/fd"
mkdir "$root/dev/shm"; mount -t tmpfs -o mode=1777,size=256m tmpfs "$root/dev/shm"
while [ "$1" != -- ]; do
  if [ -d "$1" ]; then mkdir -p "$root$2"
  elif [ ! -e "$root$2" ]; then mkdir -p "${root}$(dirname "$2")"; touch "$root$2"; fi
  bind "$1" "$2" "$3"; shift 3
done
shift; exec chroot "$root" "$@"
"""


@dataclass(frozen=True)
class Step:
    """An instruction: `words` are what is after its flags, `flags` are `name=value` of `--name=value`."""

    name: str
    flags: tuple[str, ...]
    words: str

    @property
    def mounts(self) -> list[dict[str, str]]:
        values = [flag.removeprefix("mount=") for flag in self.flags if flag.startswith("mount=")]
        return [dict(part.split("=", 1) for part in value.split(",")) for value in values]

    def flag(self, name: str) -> str | None:
        return next((flag.partition("=")[2] for flag in self.flags if flag.startswith(f"{name}=")), None)


@dataclass(frozen=True)
class Stage:
    name: str
    parent: str
    steps: tuple[Step, ...]


def stages(text: str) -> dict[str, Stage]:
    """By name, in order; the parent of the first kind is an image from elsewhere. What is before them is left out."""
    found: dict[str, list[Step]] = {}
    parents: dict[str, str] = {}
    for line in _CONTINUED.sub("", text).splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        name, _, rest = line.partition(" ")
        flags = []
        while match := re.match(r"\s*--(\S+)\s+", rest):
            flags.append(match[1])
            rest = rest[match.end() :]
        if name == "FROM":
            parent, _, stage = rest.split()
            parents[stage], found[stage] = parent, []
        elif found:
            found[list(found)[-1]].append(Step(name, tuple(flags), rest.strip()))
    return {name: Stage(name, parents[name], tuple(steps)) for name, steps in found.items()}


@dataclass(frozen=True)
class Image:
    """What a stage's steps have made.

    Attributes:
        layers: folders, the lowest first, which is the base image.
        env: variables that the image sets.
        args: of the build, as far as the stage declares them.
    """

    layers: tuple[Path, ...]
    env: Mapping[str, str] = field(default_factory=lambda: {"PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"})
    args: Mapping[str, str] = field(default_factory=dict)
    user: str = "root"
    folder: str = "/"
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    probe: tuple[str, ...] = ()
    stop_signal: str = ""
    port: str = ""

    @property
    def size(self) -> int:
        """Bytes of its files, the base image not counted."""
        sizes = {
            path.lstat().st_ino: path.lstat().st_size
            for layer in self.layers[1:]
            for path in layer.rglob("*")
            if path.is_symlink() or path.is_file()
        }
        return sum(sizes.values())

    def program(self, words: Sequence[str], env: Mapping[str, str]) -> list[str]:
        """The command that runs a program as the image's user, in its folder and environment, once in its root."""
        home = "/root" if self.user == "root" else "/nonexistent"
        variables = [f"{name}={value}" for name, value in {"HOME": home, **self.env, **env}.items()]
        as_user = ("--reuid", self.user, "--regid", self.user, "--clear-groups", "--no-new-privs")
        dropped = () if self.user == "root" else ("setpriv", *as_user, "--bounding-set=-all", "--inh-caps=-all")
        return ["env", "-i", f"--chdir={self.folder}", *variables, *dropped, *words]

    def filled(self, text: str) -> str:
        """With the values of its variables."""
        values = {**self.args, **self.env}
        return _VARIABLE.sub(lambda match: values.get(match[1] or match[3]) or match[2] or "", text)


@dataclass(frozen=True)
class Builder:
    """Carries steps out.

    Attributes:
        work: an empty folder, on a file system that an overlay can be on.
        context: of the build.
        args: of the build.
        secrets: of the build: files by id.
        cache: for `RUN --mount=type=cache`.
        lent: folders of this system that `RUN` sees, too, read-only: where pip finds packages, for example.
    """

    work: Path
    context: Path
    args: Mapping[str, str]
    secrets: Mapping[str, Path]
    cache: Path
    lent: tuple[Path, ...] = ()

    def build(self, wanted: Mapping[str, Stage], target: str, built: dict[str, Image]) -> Image:
        """The image of the stage `target` of those `wanted`; `built` has the images of others, and gets more."""
        if target not in built:
            stage = wanted[target]
            if stage.parent in wanted:
                image = replace(self.build(wanted, stage.parent, built), args={})
            else:
                image = Image((self._base(),))
            for step in stage.steps:
                source = step.flag("from")
                image = self._after(step, image, None if source is None else self.build(wanted, source, built))
            built[target] = image
        return built[target]

    def enter(
        self,
        image: Image,
        program: Sequence[str],
        *,
        binds: Sequence[tuple[Path, str, str]] = (),
        env: Mapping[str, str] | None = None,
        layer: Path | None = None,
    ) -> list[str]:
        """The command that runs a program in the image, as its user, and as process 1 of all that it starts.

        Args:
            image: its root is read-only, unless `layer` takes what is written.
            program: with its arguments.
            binds: what is mounted: a file or folder of this system, where in the image, `ro` or `rw`.
            env: besides what the image sets.
            layer: an empty folder.
        """
        root = self.work / "root"
        root.mkdir(exist_ok=True)
        # Also where it was built to be: its libraries may be looked for there.
        binds = [(Path(sys.base_prefix), sys.base_prefix, "ro"), *binds]
        lower = ":".join(map(str, reversed(image.layers)))
        if layer is None:  # an overlay wants two at least, and the places that are mounted to
            points = self._folder()
            for source, target, _ in binds:
                point = points / target.lstrip("/")
                (point if source.is_dir() else point.parent).mkdir(parents=True, exist_ok=True)
                if not source.is_dir():
                    point.touch()
            options = f"ro,lowerdir={lower}:{points}"
        else:
            options = f"lowerdir={lower},upperdir={layer},workdir={self._folder()}"
        return [
            *("unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-ec", _ENTER, "sh"),
            *(str(root), options, sys.base_prefix),
            *(str(word) for bind in binds for word in bind),
            "--",
            *image.program(program, env or {}),
        ]

    def _base(self) -> Path:
        """Links and files without which programs do not start, and names cannot be resolved."""
        root = self._folder()
        for name in _FOLDERS:
            (root / name).mkdir(parents=True)
        for path in Path("/").iterdir():
            if path.is_symlink() and path.name.startswith(("bin", "sbin", "lib")):
                (root / path.name).symlink_to(path.readlink())
            elif path.name.startswith(("bin", "sbin", "lib")):
                (root / path.name).mkdir()
        (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
        (root / "etc/group").write_text("root:x:0:\n")
        for name in ("ld.so.cache", "resolv.conf", "hosts", "nsswitch.conf", "login.defs", "ssl", "alternatives"):
            there = Path("/etc", name)
            if there.is_dir():
                shutil.copytree(there, root / "etc" / name, symlinks=True, ignore=shutil.ignore_patterns("private"))
            elif there.exists():
                shutil.copy(there, root / "etc" / name)
        return root

    def _folder(self) -> Path:
        folder = Path(tempfile.mkdtemp(dir=self.work, prefix=""))
        folder.chmod(0o755)  # it becomes the root
        return folder

    def _after(self, step: Step, image: Image, source: Image | None) -> Image:
        if step.name == "COPY":
            return self._copied(step, image, source)
        if step.name == "RUN":
            return self._run(step, image)
        return replace(image, **self._said(step, image))

    def _said(self, step: Step, image: Image) -> dict[str, Any]:
        """What an instruction that makes no layer changes."""
        words = step.words
        if step.name == "ARG":
            return {"args": {**image.args, words: self.args.get(words, "")}}
        if step.name == "ENV":
            pairs = (word.partition("=") for word in shlex.split(image.filled(words)))
            return {"env": {**image.env, **{name: value for name, _, value in pairs}}}
        if step.name in _LISTS:
            return {_LISTS[step.name]: tuple(json.loads(words.removeprefix("CMD ")))}
        return {_WORDS[step.name]: words}

    def _copied(self, step: Step, image: Image, source: Image | None) -> Image:
        layer = self._folder()
        *names, target = step.words.split()
        into = layer / target.lstrip("/")
        if source is not None:
            into.mkdir(parents=True)
            owner = step.flag("chown") or "root:root"
            script = f"cp -a {names[0]}/. /run/copy && chown -R --no-dereference {owner} /run/copy"
            whole = replace(source, user="root")
            _checked(self.enter(whole, ["sh", "-ec", script], binds=[(into, "/run/copy", "rw")]))
        for name in names if source is None else ():
            file = self.context / name
            if file.is_dir():
                shutil.copytree(file, into, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                there = into / file.name if target.endswith("/") else into
                there.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, there)
        return replace(image, layers=(*image.layers, layer))

    def _run(self, step: Step, image: Image) -> Image:
        layer = self._folder()
        binds = [(folder, str(folder), "ro") for folder in self.lent]
        for mount in step.mounts:
            match mount["type"]:
                case "secret" if mount["id"] in self.secrets:
                    binds.append((self.secrets[mount["id"]], mount["target"], "ro"))
                case "cache":
                    binds.append((self.cache, mount["target"], "rw"))
                case "bind":
                    binds.append((self.context, mount["target"], "ro"))
        network = {name: os.environ[name] for name in _OF_NETWORK if name in os.environ}
        given = {name: value for name, value in image.args.items() if value}
        program = ["sh", "-ec", step.words]
        _checked(self.enter(image, program, binds=binds, env=network | given, layer=layer))
        return replace(image, layers=(*image.layers, layer))


def _checked(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    assert done.returncode == 0, f"{command[-1]}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
