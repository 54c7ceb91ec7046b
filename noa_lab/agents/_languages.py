"""Languages by file name and first line, and what sort of content each is."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Language", "language_of"]


class Language(NamedTuple):
    """A language: its name, and its sort: "code", "markup", "data" or "prose"."""

    name: str
    sort: str


_TABLE = {
    "code": {
        "Assembly": "asm s",
        "C": "c h",
        "C#": "cs",
        "C++": "cc cpp cxx hh hpp hxx ipp",
        "CMake": "cmake",
        "CUDA": "cu cuh",
        "Clojure": "clj cljs cljc",
        "Dart": "dart",
        "Elixir": "ex exs",
        "Erlang": "erl hrl",
        "F#": "fs fsi fsx",
        "Fortran": "f f90 f95 for",
        "GLSL": "glsl vert frag comp",
        "Go": "go",
        "Groovy": "groovy gradle",
        "Haskell": "hs lhs",
        "Java": "java",
        "JavaScript": "js cjs mjs jsx",
        "Julia": "jl",
        "Jupyter Notebook": "ipynb",
        "Kotlin": "kt kts",
        "Lua": "lua",
        "MATLAB": "mlx",
        "Metal": "metal",
        "Nix": "nix",
        "OCaml": "ml mli",
        "Objective-C": "m mm",
        "PHP": "php",
        "Perl": "pl pm",
        "PowerShell": "ps1 psm1 psd1",
        "Protocol Buffers": "proto",
        "Python": "py pyi pyx pxd",
        "R": "r",
        "Ruby": "rb rake gemspec",
        "Rust": "rs",
        "SQL": "sql",
        "Scala": "scala sc",
        "Shell": "sh bash zsh fish",
        "Svelte": "svelte",
        "Swift": "swift",
        "Terraform": "tf",
        "TypeScript": "ts tsx mts cts",
        "Vue": "vue",
        "Zig": "zig",
        "Batch": "bat cmd",
    },
    "markup": {
        "CSS": "css",
        "HTML": "html htm xhtml",
        "Jinja": "jinja j2 jinja2",
        "Less": "less",
        "Sass": "scss sass",
        "TeX": "tex sty",
    },
    "data": {
        "CSV": "csv tsv",
        "INI": "ini cfg conf properties",
        "JSON": "json jsonl json5 geojson",
        "TOML": "toml",
        "XML": "xml xsd svg plist",
        "YAML": "yaml yml",
    },
    "prose": {
        "Markdown": "md markdown mdx",
        "reStructuredText": "rst",
        "AsciiDoc": "adoc asciidoc",
        "Text": "txt text log",
    },
}
_BY_EXTENSION = {
    extension: Language(name, sort)
    for sort, names in _TABLE.items()
    for name, listed in names.items()
    for extension in listed.split()
}
_BY_NAME = {
    "cmakelists.txt": Language("CMake", "code"),
    "containerfile": Language("Dockerfile", "code"),
    "dockerfile": Language("Dockerfile", "code"),
    "gemfile": Language("Ruby", "code"),
    "gnumakefile": Language("Makefile", "code"),
    "jenkinsfile": Language("Groovy", "code"),
    "justfile": Language("Just", "code"),
    "makefile": Language("Makefile", "code"),
    "rakefile": Language("Ruby", "code"),
    ".gitignore": Language("Ignore list", "data"),
    ".dockerignore": Language("Ignore list", "data"),
    ".editorconfig": Language("INI", "data"),
}
_BY_PROGRAM = {
    "bash": "Shell",
    "dash": "Shell",
    "fish": "Shell",
    "ksh": "Shell",
    "sh": "Shell",
    "zsh": "Shell",
    "deno": "TypeScript",
    "node": "JavaScript",
    "lua": "Lua",
    "perl": "Perl",
    "php": "PHP",
    "pwsh": "PowerShell",
    "python": "Python",
    "rscript": "R",
    "ruby": "Ruby",
}


def language_of(path: str, first_line: str = "") -> Language | None:
    """The language of a file, or None when neither its name nor its `#!` line tells.

    Args:
        path: Its path, with `/`.
        first_line: Its first line; looked at only when the name does not tell.
    """
    name = path.rsplit("/", 1)[-1].lower()
    if name in _BY_NAME:
        return _BY_NAME[name]
    if name.startswith(("dockerfile.", "containerfile.")):
        return _BY_NAME["dockerfile"]
    _, dot, extension = name.rpartition(".")
    if dot and extension in _BY_EXTENSION:
        return _BY_EXTENSION[extension]
    return _by_shebang(first_line)


def _by_shebang(first_line: str) -> Language | None:
    if not first_line.startswith("#!"):
        return None
    words = [
        word.rsplit("/", 1)[-1].lower()
        for word in first_line[2:].split()
        if "=" not in word and not word.startswith("-")
    ]
    for word in words[:2]:
        found = _BY_PROGRAM.get(word) or _BY_PROGRAM.get(word.rstrip("0123456789."))
        if found:
            return Language(found, "code")
    return None
